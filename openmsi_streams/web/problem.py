"""One shape for every error that a view gives: ``{"ok": false, "error", "hint", "status"}``."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

_encoder = msgspec.json.Encoder()


class Problem(Exception):
    """An answer that is not the one asked for: what happened, what to do, and the HTTP status."""

    def __init__(self, status: int, error: str, hint: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.hint = hint
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return the error's JSON form."""
        return {"ok": False, "error": self.error, "hint": self.hint, "status": self.status}


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON answer; NaN and infinities become null, as JSON has none."""
    return web.Response(body=_encoder.encode(body), status=status, content_type="application/json", headers=headers)


def wants_html(request: web.Request) -> bool:
    """Say whether a person's browser asks; scripts, which send ``*/*`` or ask for JSON, get JSON."""
    if request.path.startswith(("/api/", "/metrics", "/health/", "/static/")):
        return False
    return "text/html" in request.headers.get("Accept", "")


def from_http(error: web.HTTPException) -> Problem:
    """Return the problem that stands for an exception of aiohttp's own."""
    known = {
        404: ("There is no such page.", "The pages are listed at /, the API at /api/v1/openapi.json."),
        405: ("This page does not take that method.", "See /api/v1/openapi.json."),
        413: ("The request is too large.", "Send less."),
    }
    text, hint = known.get(error.status, (error.reason or "The request cannot be answered.", ""))
    allow = error.headers.get("Allow")
    return Problem(error.status, text, hint, {"Allow": allow} if allow else {})
