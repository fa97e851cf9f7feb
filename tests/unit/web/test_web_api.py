"""The API: lists, filters, paging, one error shape, and the same state in HTML, API and terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from openmsi_streams.tables.rows import State
from openmsi_streams.web import commands, shape
from openmsi_streams.web.fake import FakeResults, FakeServer, FakeSource, make_row

Serve = Callable[..., FakeServer]
Ask = Callable[..., Any]


def filled() -> FakeSource:
    source = FakeSource("lab", "xrd")
    for number, state in enumerate(State):
        source.put(make_row(f"run/{state}.csv", state, now=1000.0 + number, reason="expired" if number > 3 else ""))
    source.put(make_row("scan.xy", topic="xrd", now=2000.0))
    return source


def test_a_list_is_filtered_by_topic_state_prefix_and_time(serve: Serve, ask: Ask) -> None:
    server = serve(filled())

    def paths(query: str) -> list[str]:
        return [item["path"] for item in ask(server, f"/api/v1/files?{query}").json()["items"]]

    assert paths("")[0] == "scan.xy" and len(paths("")) == 7
    assert paths("topic=xrd") == ["scan.xy"]
    assert paths("state=stalled,quarantined") == ["run/quarantined.csv", "run/stalled.csv"]
    assert paths("state=open") == [f"run/{s}.csv" for s in ("stalled", "delivering", "verifying", "receiving")]
    assert paths("prefix=run/de&topic=lab") == ["run/delivered.csv", "run/delivering.csv"]
    assert paths("prefix=run/de") == ["run/delivered.csv", "run/delivering.csv"]
    assert paths("since=1004&until=1970-01-01T00:30:00Z") == ["run/quarantined.csv", "run/stalled.csv"]


def test_paging_by_cursor_gives_each_row_once(serve: Serve, ask: Ask) -> None:
    server = serve(filled())
    found: list[str] = []
    cursor = ""
    while True:
        answer = ask(server, f"/api/v1/files?limit=2{cursor}").json()
        found += [item["file_id"] for item in answer["items"]]
        if not answer["next"]:
            break
        cursor = f"&cursor={answer['next']}"
    assert sorted(found) == sorted(server.source.rows)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/files?nonsense=1", 400),
        ("/api/v1/files?state=lost", 400),
        ("/api/v1/files?limit=0", 400),
        ("/api/v1/files?limit=many", 400),
        ("/api/v1/files?cursor=%00%ff", 400),
        ("/api/v1/files?since=yesterday", 400),
        ("/api/v1/files/" + "0" * 32, 404),
        ("/api/v1/files/..%2f..%2fetc%2fpasswd", 404),
        ("/api/v1/files/" + "0" * 32 + "/sheet.png", 404),
        ("/api/v1/files/" + "0" * 32 + "/record", 404),
        ("/api/v1/lookup", 400),
        ("/api/v1/lookup?path=none", 404),
        ("/api/v1/pdv?class=bang", 400),
        ("/api/v1/nothing", 404),
        ("/static/../mount.py", 404),
        ("/nothing", 404),
    ],
)
def test_every_error_has_the_one_shape(serve: Serve, ask: Ask, path: str, status: int) -> None:
    reply = ask(serve(filled()), path)
    assert reply.status == status
    body = reply.json()
    assert set(body) == {"ok", "error", "hint", "status"}
    assert body["ok"] is False and body["status"] == status and body["error"] and body["hint"]


def test_a_fault_of_the_source_is_a_500_that_tells_nothing(serve: Serve, ask: Ask) -> None:
    source = filled()

    def fail(file_id: str) -> None:
        raise RuntimeError("secret detail")

    source.row = fail  # type: ignore[assignment, method-assign]
    reply = ask(serve(source), "/api/v1/files")
    assert reply.status == 500 and "secret" not in reply.text and reply.json()["ok"] is False


def test_a_file_seen_but_not_yet_written_is_shown_once(serve: Serve, ask: Ask) -> None:
    source = filled()
    file_id = source.put(make_row("fresh.bin", State.RECEIVING, now=3000.0), written=False)
    server = serve(source)
    items = ask(server, "/api/v1/files?state=receiving").json()["items"]
    assert items[0]["file_id"] == file_id and len(items) == 2
    overview = ask(server, "/api/v1/overview").json()
    assert overview["states"]["receiving"]["files"] == 2
    assert file_id in [item["file_id"] for item in overview["in_flight"]]
    source.put(source.rows[file_id])
    assert len(ask(server, "/api/v1/files?state=receiving").json()["items"]) == 2


def test_a_row_that_moved_on_since_the_index_was_told_is_shown_as_it_is(serve: Serve, ask: Ask) -> None:
    source = filled()
    file_id = next(i for i, row in source.rows.items() if row.state == State.RECEIVING)
    source.put(source.rows[file_id].to(State.VERIFYING, 4000.0), written=False)
    server = serve(source)
    assert ask(server, "/api/v1/files?state=receiving").json()["items"] == []
    assert ask(server, f"/api/v1/files/{file_id}").json()["item"]["state"] == "verifying"


def test_a_delivered_row_is_read_again_only_when_it_was_written_again(serve: Serve, ask: Ask) -> None:
    source = FakeSource("lab")
    file_id = source.put(make_row("x.csv", now=1000.0))
    reads: list[str] = []
    plain = source.row

    def row(wanted: str) -> object:
        reads.append(wanted)
        return plain(wanted)

    source.row = row  # type: ignore[assignment, method-assign]
    server = serve(source)
    for _ in range(3):
        assert ask(server, "/api/v1/files").json()["items"][0]["flags"] == []
    assert reads == [file_id]
    server.on_loop(lambda: source.put(make_row("x.csv", now=1000.0, flags=("superseded",))))
    assert ask(server, "/api/v1/files").json()["items"][0]["flags"] == ["superseded"]
    server.on_loop(lambda: (source.index.forget(file_id), source.rows.clear()))
    assert ask(server, "/api/v1/files").json()["items"] == []


@pytest.mark.parametrize("state", list(State))
def test_page_api_and_terminal_say_the_same_state(
    serve: Serve, ask: Ask, state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    server = serve(filled())
    file_id = next(i for i, row in server.source.rows.items() if row.state == state and row.topic == "lab")
    api = ask(server, f"/api/v1/files/{file_id}").json()["item"]["state"]
    page = ask(server, f"/files/{file_id}", Accept="text/html").text
    shown = re.search(r'id="state"><span class="badge (\w+)"[^>]*>(\w+)</span>', page)
    said = CliRunner().invoke(
        commands.status, [f"run/{state}.csv", "--url", server.url, "--json"], standalone_mode=False
    )
    assert shown is not None
    assert {api, shown.group(1), shown.group(2), msgspec.json.decode(said.output)["items"][0]["state"]} == {str(state)}
    expected = {"delivered": 0, "stalled": 4, "quarantined": 4}.get(state, 3)
    assert said.return_value == expected


def test_scripts_get_json_and_browsers_html_at_the_same_address(serve: Serve, ask: Ask) -> None:
    server = serve(filled())
    assert ask(server, "/files/").json()["ok"] is True
    assert ask(server, "/files/", Accept="application/json").json()["items"]
    page = ask(server, "/files/", Accept="text/html,*/*;q=0.8")
    assert page.headers["content-type"].startswith("text/html") and "<h1>Files</h1>" in page.text


def test_replay_moves_a_quarantined_file_and_refuses_others(serve: Serve, ask: Ask) -> None:
    server = serve(filled())
    by_state = {row.state: i for i, row in server.source.rows.items() if row.topic == "lab"}
    quarantined, delivered = by_state[State.QUARANTINED], by_state[State.DELIVERED]
    header = {"X_OpenMSI_Streams": "1"}
    assert ask(server, f"/api/v1/files/{delivered}/replay", "POST", **header).status == 409
    assert ask(server, f"/api/v1/files/{'0' * 32}/replay", "POST", **header).status == 404
    assert ask(server, f"/api/v1/files/{quarantined}/replay", "POST", **header).status == 202
    assert server.source.replayed == [quarantined]
    assert ask(server, f"/api/v1/files/{quarantined}").json()["item"]["state"] == "receiving"


def test_replay_says_when_the_log_has_nothing_left(serve: Serve, ask: Ask) -> None:
    source = filled()
    source.can_replay = False
    file_id = next(i for i, row in source.rows.items() if row.state == State.QUARANTINED)
    reply = ask(serve(source), f"/api/v1/files/{file_id}/replay", "POST", X_OpenMSI_Streams="1")
    assert reply.status == 409 and "Send the file again" in reply.json()["hint"]


def test_during_recovery_an_unknown_id_may_still_come(serve: Serve, ask: Ask) -> None:
    source = filled()
    source.status["recovered"] = False
    server = serve(source)
    reply = ask(server, "/api/v1/files/" + "0" * 32)
    assert reply.status == 503 and reply.headers["retry-after"]
    answer = ask(server, "/api/v1/files").json()
    assert answer["items"] and "still reading its table" in answer["notes"][0]


def test_health_gives_the_reason(serve: Serve, ask: Ask) -> None:
    source = filled()
    server = serve(source)
    assert ask(server, "/health/live").status == 200
    assert ask(server, "/health/ready").status == 200
    for change, said in [
        ({"assigned": False}, "No partitions"),
        ({"recovered": False}, "recovered"),
        ({"stores": {"disk": "disk is full"}}, "disk is full"),
        ({"commit_age": {"lab-1": 999.0}}, "lab-1 has not committed"),
        ({"paused": "the disk is nearly full"}, "Intake is paused"),
        ({"problems": ["KafkaCrypto has died."]}, "KafkaCrypto"),
    ]:
        before = dict(source.status)
        source.status.update(change)
        reply = ask(server, "/health/ready")
        assert reply.status == 503 and any(said in reason for reason in reply.json()["reasons"])
        source.status = before
    assert ask(server, "/health/ready").status == 200


def results(source: FakeSource) -> tuple[FakeResults, list[str]]:
    found, ids = FakeResults(), []
    for number, kind in enumerate(("spall", "spall", "no_shot")):
        file_id = source.put(make_row(f"shot{number}.trc", topic="pdv", now=5000.0 + number))
        ids.append(file_id)
        found.docs[file_id] = {
            "schema": "openmsi_streams.pdv/1",
            "class": kind,
            "reason": "=cmd()",
            "quantities": {
                "peak_velocity": {"value": 600.0 + number, "unit": "m/s", "sigma": 1.25},
                "spall_strength": {"value": 2.0 + number, "unit": "GPa", "sigma": 0.1},
                "strain_rate": {"value": 1e5 * 10**number, "unit": "1/s", "sigma": None},
            }
            if kind == "spall"
            else {},
            "quality": {"snr_db": float("nan"), "flags": ["clipped"]},
        }
        found.sheets[file_id] = b"\x89PNG\r\n\x1a\n" + bytes(8)
    found.gemd[ids[0]] = msgspec.json.encode(
        {
            "context": [
                {"type": "material_run", "name": "Sample <b>1</b>", "uids": {"auto": "m1"}, "tags": []},
                {
                    "type": "measurement_run",
                    "name": "Trace",
                    "uids": {"auto": "r1"},
                    "material": {"type": "link_by_uid", "scope": "auto", "id": "m1"},
                    "parameters": [
                        {"name": "File size", "value": {"type": "nominal_real", "nominal": 12.0, "units": "byte"}}
                    ],
                    "file_links": [{"filename": "x", "url": "javascript:alert(1)"}],
                },
            ],
            "object": {"type": "link_by_uid", "scope": "auto", "id": "r1"},
        }
    )
    found.entries[ids[0]] = {"uid": "r1", "name": "Trace", "kind": "measurement_run", "sample": "HTM-1", "time": 5000.0}
    return found, ids


def test_pdv_and_records_are_listed_filtered_and_shown(serve: Serve, ask: Ask) -> None:
    source = filled()
    found, ids = results(source)
    server = serve(source, results=found)
    assert [shot["file_id"] for shot in ask(server, "/api/v1/pdv").json()["items"]] == ids[::-1]
    assert len(ask(server, "/api/v1/pdv?class=spall").json()["items"]) == 2
    first = ask(server, "/api/v1/pdv?limit=1").json()
    second = ask(server, f"/api/v1/pdv?limit=1&cursor={first['next']}").json()
    assert [first["items"][0]["file_id"], second["items"][0]["file_id"]] == ids[:0:-1]
    lines = ask(server, "/api/v1/pdv.csv").text.splitlines()
    assert "spall_strength [GPa],spall_strength sigma [GPa]" in lines[0] and len(lines) == 4
    # A spreadsheet must not run a reason.
    assert "'=cmd()" in lines[1]
    gallery = ask(server, "/pdv/", Accept="text/html").text
    assert "600.0 ± 1.2 m/s" in gallery and 'class="plot"' in gallery
    assert ask(server, f"/api/v1/files/{ids[0]}/sheet.png").headers["content-type"] == "image/png"
    page = ask(server, f"/files/{ids[0]}", Accept="text/html").text
    assert f'src="/api/v1/files/{ids[0]}/sheet.png"' in page and "2.00 ± 0.10 GPa" in page and "12 byte" in page
    assert ask(server, f"/api/v1/files/{ids[0]}/record").json()["object"]["id"] == "r1"
    record = ask(server, f"/gemd/{ids[0]}", Accept="text/html").text
    assert "Sample &lt;b&gt;1&lt;/b&gt;" in record and 'href="javascript' not in record
    assert "HTM-1" in ask(server, "/gemd/", Accept="text/html").text
    assert ask(server, "/gemd/?sample=none", Accept="text/html").text.count("<li>") == 0


def test_a_record_that_is_none_is_said_to_be_so(serve: Serve, ask: Ask) -> None:
    source = filled()
    found, ids = results(source)
    server = serve(source, results=found)
    for bad in (b"", b"[]", b'{"context": 3}', b'{"context": [], "object": 3}', b'"x"'):
        found.gemd[ids[0]] = bad
        assert ask(server, f"/gemd/{ids[0]}", Accept="text/html").status in (200, 502)
        assert ask(server, f"/files/{ids[0]}", Accept="text/html").status == 200


def test_gaps_and_bars_show_what_is_missing() -> None:
    item = shape.item("0" * 32, make_row("x", State.RECEIVING, size=100, ranges=(0, 25, 50, 75)))
    assert shape.gaps(item) == [[25, 50], [75, 100]]
    assert shape.bar(item) == [[0.0, 25.0], [50.0, 25.0]]
    assert shape.fraction(item) == 0.5
    assert commands.bar(item, 4) == "█·█·"
    unknown = shape.item("0" * 32, make_row("x", State.RECEIVING, size=-1, ranges=(0, 80)))
    assert shape.gaps(unknown) == [[80, -1]] and shape.fraction(unknown) is None and shape.bar(unknown) == [[0.0, 80.0]]
    empty = shape.item("0" * 32, make_row("x", size=0, ranges=()))
    assert shape.gaps(empty) == [] and shape.bar(empty) == [[0.0, 100.0]] and shape.fraction(empty) == 1.0
    scattered = make_row("x", State.RECEIVING, size=100_000, ranges=tuple(range(2000)))
    assert len(shape.bar(shape.item("0" * 32, scattered))) < 1000


def test_processors_are_shown_with_their_outcomes(serve: Serve, ask: Ask) -> None:
    known = [
        {"name": "lab:new", "topics": [], "match": []},
        {"name": "lab:old", "topics": ["xrd"], "match": ["*.xy"], "ok": 3, "failed": 1, "last_time": 1000.0}
        | {"last_seconds": 2.5, "last_error": "<b>boom</b>"},
    ]
    server = serve(FakeSource("lab"), processors=lambda: known)
    items = ask(server, "/api/v1/processors").json()["items"]
    assert [(item["name"], item["ok"], item["failed"]) for item in items] == [("lab:new", 0, 0), ("lab:old", 3, 1)]
    page = ask(server, "/processors/", Accept="text/html").text
    assert "&lt;b&gt;boom&lt;/b&gt;" in page and "*.xy" in page and "none yet" in page
