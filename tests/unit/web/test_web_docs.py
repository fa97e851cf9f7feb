"""What the views and metrics offer is documented, described and well-formed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from openmsi_streams.config.settings import Settings, WebSettings
from openmsi_streams.tables.rows import State
from openmsi_streams.web import collect, commands, routes, shape
from openmsi_streams.web.fake import FakeResults, FakeServer, FakeSource, make_row
from openmsi_streams.web.mount import build
from openmsi_streams.web.peers import Beat

TOP = Path(__file__).parents[3]
Serve = Callable[..., FakeServer]
Ask = Callable[..., Any]


def doc(name: str) -> str:
    return (TOP / "docs" / name).read_text(encoding="utf-8")


def test_every_route_is_in_the_description_and_in_the_docs() -> None:
    application = web.Application()
    source = FakeSource("lab")
    build(application, source, source.index, Settings())
    served = {
        (route.method, route.resource.canonical)
        for route in application.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert ("GET", "/static") in served
    served.remove(("GET", "/static"))
    assert served == {(route.method, route.path) for route in routes.ROUTES}
    described = {(method.upper(), path) for path, entry in routes.description()["paths"].items() for method in entry}
    assert described == served
    text = doc("api.md")
    for method, path in served:
        assert f"`{method} {path}`" in text, f"{method} {path} is missing in docs/api.md"
    for name in routes.PARAMETERS:
        assert f"`{name}`" in text, f"the parameter {name} is missing in docs/api.md"
    operations = [entry["operationId"] for path in routes.description()["paths"].values() for entry in path.values()]
    assert len(operations) == len(set(operations))


def test_every_metric_is_documented_and_nothing_else_is() -> None:
    text = doc("metrics.md")
    documented = set(re.findall(r"^\| `(openmsi_streams_\w+)` \|", text, re.MULTILINE))
    assert documented == collect.names()


def test_alert_rules_and_dashboard_use_metrics_that_exist() -> None:
    known = collect.names()
    rules = (TOP / "deploy/prometheus/alerts.yaml").read_text(encoding="utf-8")
    dashboard = json.loads((TOP / "deploy/grafana/dashboards/openmsi-streams.json").read_text(encoding="utf-8"))
    expressions = re.findall(r"expr: (.+)", rules)
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert len(expressions) == len(alerts) > 5
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in expressions:
        for name in re.findall(r"openmsi_streams_\w+", expression):
            if name != "openmsi_streams" and f'job="{name}"' not in expression:
                assert re.sub(r"_(bucket|sum|count)$", "", name) in known or name in known, name
    documented = re.findall(r"^\| `([A-Z]\w+)` \|", doc("metrics.md"), re.MULTILINE)
    assert sorted(documented) == sorted(alerts)


def test_every_state_setting_and_option_is_documented() -> None:
    text = doc("web.md")
    for state in State:
        assert f"`{state}`" in text and state in shape.STATE_WORDS
    for field in msgspec.structs.fields(WebSettings):
        assert f"`web.{field.name}`" in text, field.name
    for parameter in commands.status.params:
        for option in parameter.opts if parameter.param_type_name == "option" else ():
            assert f"`{option}`" in text, option


def filled() -> tuple[FakeSource, FakeResults]:
    source, results = FakeSource("lab"), FakeResults()
    for number, state in enumerate(State):
        file_id = source.put(make_row(f"{state}.trc", state, now=1000.0 + number))
        results.docs[file_id] = {"schema": "openmsi_streams.pdv/1", "class": "spall", "quantities": {}}
        results.sheets[file_id] = b"\x89PNG\r\n\x1a\n"
        results.gemd[file_id] = b'{"context": [], "object": {}}'
        results.entries[file_id] = {"uid": "u", "name": "n", "sample": "s"}
    return source, results


def check(value: Any, schema: dict[str, Any], where: str) -> None:
    """Hold a value against the parts of JSON Schema that the description uses."""
    if "$ref" in schema:
        return check(value, routes.SCHEMAS[schema["$ref"].rpartition("/")[2]], where)
    if "const" in schema:
        assert value == schema["const"], where
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    classes = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "object": dict,
        "array": list,
        "null": type(None),
    }
    if kinds:
        assert any(isinstance(value, classes[kind]) for kind in kinds), f"{where}: {value!r} is not {kinds}"
    if "enum" in schema:
        assert value in schema["enum"], where
    if isinstance(value, dict) and "properties" in schema:
        for name in schema["required"]:
            assert name in value, f"{where}.{name} is missing"
        for name, inner in schema["properties"].items():
            if name in value:
                check(value[name], inner, f"{where}.{name}")
    if isinstance(value, list) and "items" in schema:
        for inner in value:
            check(inner, schema["items"], f"{where}[]")
    return None


def test_answers_are_what_the_description_says(serve: Serve, ask: Ask) -> None:
    source, results = filled()
    server = serve(
        source,
        results=results,
        processors=lambda: [{"name": "a:b"}, {"name": "c:d", "topics": ["lab"], "match": ["*.csv"], "ok": 2}],
    )
    quarantined = next(i for i, row in source.rows.items() if row.state == State.QUARANTINED)
    for route in routes.ROUTES:
        path = route.path.replace("{file_id}", quarantined)
        path += "?path=delivered.trc" if route.path == "/api/v1/lookup" else ""
        if route.method == "GET" and route.answer in routes.SCHEMAS:
            reply = ask(server, path)
            assert reply.status == 200, path
            assert reply.headers["content-type"].startswith("application/json")
            check(reply.json(), routes.SCHEMAS[route.answer], path)
            check(
                ask(server, path, Host="evil.example").json(), routes.SCHEMAS["Problem"], path
            ) if not path.startswith("/health") else None
    reply = ask(server, f"/api/v1/files/{quarantined}/replay", "POST", X_OpenMSI_Streams="1")
    check(reply.json(), routes.SCHEMAS["Replay"], "replay")


def test_metrics_are_well_formed(serve: Serve, ask: Ask) -> None:
    source, results = filled()
    source.put(make_row('odd "topic"\\\n', topic='odd "topic"\\\n'))
    server = serve(source, results=results)
    server.site.peers.take(Beat("pc", "producer", "lab", 1.0))
    server.site.peers.take(Beat("other", "worker", "lab", server.site.clock(), url="http://127.0.0.1:1"))
    ask(server, "/api/v1/files")
    reply = ask(server, "/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert collect.problems(reply.text) == []
    assert 'openmsi_streams_files{state="delivered",topic="lab"} 1.0' in reply.text
    assert "openmsi_streams_workers 2.0" in reply.text
    assert 'openmsi_streams_view_seconds_count{route="/api/v1/files"}' in reply.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a_total 1\n", "has no TYPE"),
        ("# TYPE a gauge\na 1\n", "has no HELP"),
        ("# HELP a x\n# TYPE a counter\na 1\n", "ends in _total"),
        ("# HELP a x\n# TYPE a gauge\na 1\na 1\n", "twice"),
        ("# HELP a x\n# TYPE a gauge\na one\n", "not a number"),
    ],
)
def test_the_check_of_metrics_finds_faults(text: str, said: str) -> None:
    assert any(said in problem for problem in collect.problems(text))


def test_nothing_is_loaded_from_elsewhere() -> None:
    folder = TOP / "openmsi_streams" / "web"
    for path in [*folder.glob("templates/*"), *folder.glob("static/*")]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text, path
        assert "style=" not in text.replace("dateStyle:", "").replace("timeStyle:", ""), path
        assert not re.search(r"\son\w+=", text), path
