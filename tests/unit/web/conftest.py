"""A served fake worker and a small HTTP client for the tests of the views."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from openmsi_streams.config.settings import Settings
from openmsi_streams.web.fake import FakeServer, FakeSource


class Reply:
    """An answer as it came, redirects not followed."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def call(server: FakeServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Reply:
    """Ask a server; header names are written with underscores."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body=body, headers=named)
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@pytest.fixture
def ask() -> Callable[..., Reply]:
    """Return the client."""
    return call


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """Return a function that serves a fake source until the test ends; ``web={...}`` are settings of `[web]`."""
    with ExitStack() as stack:

        def start(source: FakeSource, *, web: dict[str, Any] | None = None, **more: Any) -> FakeServer:
            settings = Settings()
            for name, value in (web or {}).items():
                setattr(settings.web, name, value)
            return stack.enter_context(FakeServer(source, settings, **more))

        yield start
