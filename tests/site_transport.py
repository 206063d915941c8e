"""HTTP to the site inside a test's own process and transaction, for clients that speak httpx."""

import httpx
from django.test import Client


class SiteTransport(httpx.BaseTransport):
    """Hands requests to Django's test client; a failure of the server is an answer, as it is over a socket."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return the site's answer."""
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        kind = headers.pop("content-type", "application/octet-stream")
        answered = Client(raise_request_exception=False).generic(
            request.method, request.url.raw_path.decode(), request.read(), kind, headers=headers
        )
        content = b"".join(answered.streaming_content) if answered.streaming else answered.content
        stream = httpx.ByteStream(content)
        return httpx.Response(answered.status_code, headers=dict(answered.items()), stream=stream)
