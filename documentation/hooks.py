"""What mkdocs calls while it builds: adds the pages that are made of the code."""

import os
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ("reference/settings.md", "reference/commands.md", "reference/api.md", "reference/examples.md")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for path, text in generated_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def generated_pages() -> dict[str, str]:
    """Return the text of each generated page."""
    _prepare()
    from documentation.api_page import api_page
    from documentation.commands_page import commands_page
    from documentation.examples_page import examples_page
    from documentation.settings_page import settings_page
    from edge_client.cli import _parser as edge_parser
    from operator_cli.main import _parser as operator_parser
    from qflare_site.environment import DEFAULTS
    from verifier.qflare_verify import _parser as verifier_parser

    programs = {"qflare-edge": edge_parser(), "qflare": operator_parser(), "qflare-verify": verifier_parser()}
    return dict(
        zip(GENERATED, (settings_page(DEFAULTS), commands_page(programs), api_page(), examples_page()), strict=True)
    )


def _prepare() -> None:
    """Let the code be imported, in a data directory that is thrown away where mkdocs runs by itself."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup()
