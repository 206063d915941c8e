"""The reference: a Django REST framework view with one select and one insert, on the same web server and database.

`bench.fleet.bare_view:application` is its WSGI application; the database is named by BARE_DATABASE_URL.
"""

import os

import django
from django.conf import settings

from qflare_site.stores import postgres_database

settings.configure(
    SECRET_KEY="a reference that answers nobody but this benchmark",  # noqa: S106 - it protects nothing
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["rest_framework"],
    DATABASES={"default": postgres_database(os.environ["BARE_DATABASE_URL"])},
    ROOT_URLCONF="bench.fleet.bare_view",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
    USE_TZ=True,
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402 - what follows needs the settings
from django.db import connection, models  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


class Client(models.Model):
    """Whom a request is from."""

    name = models.CharField(max_length=100)

    class Meta:
        app_label = "bare"

    def __str__(self) -> str:
        return self.name


class Note(models.Model):
    """What a request leaves."""

    client = models.ForeignKey(Client, on_delete=models.CASCADE)
    text = models.CharField(max_length=200)

    class Meta:
        app_label = "bare"

    def __str__(self) -> str:
        return self.text


class BareView(APIView):
    """One select, one insert."""

    def post(self, request: Request) -> Response:
        """Look the client up and keep its note."""
        client = Client.objects.get(id=1)
        note = Note.objects.create(client=client, text=request.data["note"])
        return Response({"id": note.id})


def make_tables() -> None:
    """Make the two tables and the one client."""
    with connection.schema_editor() as schema:
        schema.create_model(Client)
        schema.create_model(Note)
    Client.objects.create(id=1, name="the only one")


urlpatterns = [path("bare", BareView.as_view())]
application = get_wsgi_application()

if __name__ == "__main__":
    make_tables()
