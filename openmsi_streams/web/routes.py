"""Every address, in one table, from which the routes are made and the OpenAPI description is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiohttp import web

from openmsi_streams import __version__
from openmsi_streams.tables.rows import State
from openmsi_streams.web import api, pages, shots
from openmsi_streams.web.problem import json_response

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Route(NamedTuple):
    """One address."""

    method: str
    path: str
    handler: Handler
    answer: str
    """Name of the schema of its JSON, or a media type."""
    parameters: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    """Beside 200, and 401, 403, 429 which each may give."""


_LIST = ("topic", "state", "prefix", "since", "until", "limit", "cursor", "local")
_SHOTS = ("class", "topic", "prefix", "since", "until", "limit", "cursor", "local")
_HTML = "text/html"


async def get_openapi(request: web.Request) -> web.Response:
    """This description."""
    return json_response(description())


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v1/overview", api.get_overview, "Overview", ("local",)),
    Route("GET", "/api/v1/files", api.get_files, "Files", _LIST, (400,)),
    Route("GET", "/api/v1/files/{file_id}", api.get_file, "File", ("file_id", "local"), (404, 503)),
    Route(
        "POST", "/api/v1/files/{file_id}/replay", api.post_replay, "Replay", ("file_id", "local"), (202, 404, 409, 503)
    ),
    Route("GET", "/api/v1/files/{file_id}/sheet.png", api.get_sheet, "image/png", ("file_id", "local"), (404, 502)),
    Route("GET", "/api/v1/files/{file_id}/result", api.get_result, "Result", ("file_id", "local"), (404,)),
    Route("GET", "/api/v1/files/{file_id}/record", api.get_record, "Record", ("file_id", "local"), (404,)),
    Route("GET", "/api/v1/lookup", api.get_lookup, "Lookup", ("topic", "path"), (400, 404)),
    Route("GET", "/api/v1/pdv", api.get_pdv, "Shots", _SHOTS, (400,)),
    Route("GET", "/api/v1/pdv.csv", api.get_pdv_csv, "text/csv", _SHOTS, (400,)),
    Route("GET", "/api/v1/gemd", api.get_gemd, "Records", ("sample", "local")),
    Route("GET", "/api/v1/quarantine", api.get_quarantine, "Quarantine"),
    Route("GET", "/api/v1/processors", api.get_processors, "Processors"),
    Route("GET", "/api/v1/health", api.get_health, "Health"),
    Route("GET", "/api/v1/openapi.json", get_openapi, "OpenAPI"),
    Route("GET", "/metrics", api.get_metrics, "text/plain"),
    Route("GET", "/health/live", api.get_live, "Live"),
    Route("GET", "/health/ready", api.get_ready, "Ready", (), (503,)),
    Route("GET", "/", pages.get_overview, _HTML),
    Route("GET", "/files/", pages.get_files, _HTML, _LIST, (400,)),
    Route("GET", "/files/{file_id}", pages.get_file, _HTML, ("file_id",), (404, 503)),
    Route("POST", "/files/{file_id}/replay", pages.post_replay, _HTML, ("file_id",), (303, 404, 409, 503)),
    Route("GET", "/pdv/", pages.get_pdv, _HTML, _SHOTS, (400,)),
    Route("GET", "/gemd/", pages.get_gemd, _HTML, ("sample",)),
    Route("GET", "/gemd/{file_id}", pages.get_record, _HTML, ("file_id",), (404, 502)),
    Route("GET", "/quarantine/", pages.get_quarantine, _HTML, ("limit", "cursor"), (400,)),
    Route("GET", "/processors/", pages.get_processors, _HTML),
    Route("GET", "/login", pages.get_login, _HTML, ("next",), (303,)),
    Route("POST", "/login", pages.post_login, _HTML, (), (303,)),
    Route("POST", "/logout", pages.post_logout, _HTML, (), (303,)),
)

PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "file_id": ("Id of a file version: 32 hexadecimal digits.", {"type": "string", "pattern": "^[0-9a-f]{32}$"}),
    "topic": ("Chunk topic.", {"type": "string"}),
    "state": (
        f"States with commas between: {', '.join(State)}; `open` for all that are not settled.",
        {"type": "string"},
    ),
    "prefix": ("Start of the path.", {"type": "string"}),
    "path": ("The whole path below the watched folder.", {"type": "string"}),
    "since": ("Changed at or after: seconds since the epoch or ISO 8601.", {"type": "string"}),
    "until": ("Changed before: seconds since the epoch or ISO 8601.", {"type": "string"}),
    "limit": ("Items in one answer.", {"type": "integer", "minimum": 1}),
    "cursor": ("The `next` of the answer before.", {"type": "string"}),
    "local": ("`1`: this worker's only, without asking the others.", {"type": "string"}),
    "class": (f"Class of the shot: {', '.join(shots.CLASSES)}.", {"type": "string"}),
    "sample": ("Name of a sample.", {"type": "string"}),
    "next": ("Page to go to after the login.", {"type": "string"}),
}

_STATUS = {
    200: "The answer.",
    202: "Accepted; the file goes through again.",
    303: "Go on at the address in Location.",
    400: "A parameter has no sense.",
    401: "A token is needed, or it is wrong.",
    403: "Not from this address or page.",
    404: "Unknown.",
    409: "Not in the state that this needs.",
    429: "Too many wrong tokens; wait as Retry-After says.",
    502: "What is stored cannot be read.",
    503: "Not ready, or a worker that may know does not answer.",
}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": sorted(required), "properties": required | (optional or {})}


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


_TEXT, _NUMBER, _WHOLE, _FLAG = {"type": "string"}, {"type": "number"}, {"type": "integer"}, {"type": "boolean"}
_MAP: dict[str, Any] = {"type": "object"}


def _or_null(kind: dict[str, Any]) -> dict[str, Any]:
    return {"type": [kind["type"], "null"]} | {key: value for key, value in kind.items() if key != "type"}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


SCHEMAS: dict[str, dict[str, Any]] = {
    "Problem": _object({"ok": {"const": False}, "error": _TEXT, "hint": _TEXT, "status": _WHOLE}),
    "Delivery": _object(
        {"kind": _TEXT, "store": _TEXT, "url": _TEXT, "sha512": _TEXT, "bytes": _WHOLE, "time": _NUMBER, "note": _TEXT},
        {"attempt": _WHOLE},
    ),
    "Item": _object(
        {
            "file_id": _TEXT,
            "topic": _TEXT,
            "path": _TEXT,
            "sha512": _TEXT,
            "bytes": _or_null(_WHOLE),
            "received": _WHOLE,
            "ranges": _list(_list(_WHOLE)),
            "chunks": _WHOLE,
            "state": {"type": "string", "enum": [str(state) for state in State]},
            "reason": _TEXT,
            "message": _TEXT,
            "cure": _TEXT,
            "since": _NUMBER,
            "updated": _NUMBER,
            "mtime": _or_null(_NUMBER),
            "deliveries": _list(_ref("Delivery")),
            "attempts": _WHOLE,
            "retry_at": _or_null(_NUMBER),
            "headers": _MAP,
            "flags": _list(_TEXT),
            "copy_of": _TEXT,
            "partition": _WHOLE,
            "log": _or_null(_list(_WHOLE)),
            "home": _or_null(_list(_WHOLE)),
            "times": _MAP,
            "worker": _TEXT,
        }
    ),
    "Files": _object({"ok": _FLAG, "items": _list(_ref("Item")), "next": _or_null(_TEXT), "notes": _list(_TEXT)}),
    "File": _object({"ok": _FLAG, "item": _ref("Item"), "versions": _list(_MAP), "notes": _list(_TEXT)}),
    "Lookup": _object({"ok": _FLAG, "items": _list(_ref("Item"))}),
    "Replay": _object({"ok": _FLAG, "file_id": _TEXT, "replayed": _FLAG}),
    "Overview": _object(
        {
            "ok": _FLAG,
            "time": _NUMBER,
            "worker": _TEXT,
            "version": _TEXT,
            "changes": _WHOLE,
            "states": _MAP,
            "in_flight": _list(_MAP),
            "stalled": _list(_MAP),
            "quarantined": _list(_MAP),
            "delivered": _list(_MAP),
            "topics": _list(_MAP),
            "workers": _list(_MAP),
            "producers": _list(_MAP),
            "notes": _list(_TEXT),
        }
    ),
    "Shot": _object(
        {
            "file_id": _TEXT,
            "topic": _TEXT,
            "path": _TEXT,
            "class": _TEXT,
            "reason": _TEXT,
            "time": _NUMBER,
            "quantities": _MAP,
            "snr_db": _or_null(_NUMBER),
            "flags": _list(_TEXT),
        }
    ),
    "Shots": _object({"ok": _FLAG, "items": _list(_ref("Shot")), "next": _or_null(_TEXT), "notes": _list(_TEXT)}),
    "Result": _object({"ok": _FLAG, "file_id": _TEXT, "result": _MAP}),
    "Record": {"type": "object", "description": "A GEMD JSON document."},
    "Records": _object({"ok": _FLAG, "items": _list(_MAP), "left_off": _WHOLE, "notes": _list(_TEXT)}),
    "Notice": _object(
        {
            "topic": _TEXT,
            "partition": _WHOLE,
            "offset": _WHOLE,
            "time": _NUMBER,
            "reason": _TEXT,
            "message": _TEXT,
            "path": _TEXT,
        }
    ),
    "Quarantine": _object({"ok": _FLAG, "items": _list(_ref("Notice"))}),
    "Processor": _object(
        {
            "name": _TEXT,
            "topics": _list(_TEXT),
            "match": _list(_TEXT),
            "ok": _WHOLE,
            "retried": _WHOLE,
            "failed": _WHOLE,
            "last_time": _or_null(_NUMBER),
            "last_seconds": _or_null(_NUMBER),
            "last_error": _TEXT,
        }
    ),
    "Processors": _object({"ok": _FLAG, "items": _list(_ref("Processor"))}),
    "Health": _object({"ok": _FLAG, "ready": _FLAG, "reasons": _list(_TEXT), "partitions": _MAP, "health": _MAP}),
    "Live": _object({"ok": _FLAG, "status": _TEXT}),
    "Ready": _object({"ok": _FLAG, "status": _WHOLE}, {"error": _TEXT, "hint": _TEXT, "reasons": _list(_TEXT)}),
    "OpenAPI": _object({"openapi": _TEXT, "info": _MAP, "paths": _MAP, "components": _MAP}),
}


def _operation(route: Route) -> dict[str, Any]:
    summary = (route.handler.__doc__ or "").strip().splitlines()[0]
    responses: dict[str, Any] = {}
    for status in sorted({200, 401, 403, 429, *route.statuses} - ({200} if 202 in route.statuses else set())):
        entry: dict[str, Any] = {"description": _STATUS[status]}
        if status in (200, 202):
            if route.answer in SCHEMAS:
                entry["content"] = {"application/json": {"schema": _ref(route.answer)}}
            else:
                entry["content"] = {route.answer: {"schema": {"type": "string"}}}
        elif status != 303:
            entry["content"] = {"application/json": {"schema": _ref("Problem")}}
        responses[str(status)] = entry
    parameters = [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in route.path else "query",
            "required": f"{{{name}}}" in route.path or name == "path",
            "description": PARAMETERS[name][0],
            "schema": PARAMETERS[name][1],
        }
        for name in route.parameters
    ]
    name = route.handler.__name__ + ("_page" if route.answer == _HTML else "")
    return {"summary": summary, "operationId": name, "parameters": parameters, "responses": responses}


def description() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of every address."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "openmsi_streams",
            "version": __version__,
            "description": "Where every file of the laboratory is. One error shape: {ok: false, error, hint, status}.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
