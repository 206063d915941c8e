"""`manage.py create_kek`: make the KEK of a site before its first start."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyring.kek import KekError, configured_provider, provider_named


class Command(BaseCommand):
    """Let the configured provider make the first KEK; a token makes it inside, and it never leaves."""

    help = "Makes the key encryption key of this site in the configured provider; refuses where one exists."

    def handle(self, *args: Any, **options: Any) -> None:
        """Make it, or say what is there already."""
        provider = configured_provider()
        try:
            keks = provider_named(provider).keks()
            if keks:
                raise CommandError(f"There is a KEK already: {keks[-1].place}. Replace it with: manage.py rotate_kek")
            kek = provider_named(provider).create()
        except KekError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Made the KEK {kek.id.hex()} ({provider}): {kek.place}")
