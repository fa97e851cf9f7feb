"""Several workers: each answers for all, and goes on when one is down."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmsi_streams.config.settings import WebSettings
from openmsi_streams.tables.rows import State
from openmsi_streams.web import peers, reader, security
from openmsi_streams.web.fake import FakeResults, FakeServer, FakeSource, make_row
from openmsi_streams.web.peers import Beat

Serve = Callable[..., FakeServer]
Ask = Callable[..., Any]
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an answer may take longer than a person would wait; that is not what these tests are about."""
    monkeypatch.setattr(peers, "ASK_SECONDS", 30.0)


def introduce(*servers: FakeServer) -> None:
    for server in servers:
        for other in servers:
            server.site.peers.take(Beat(other.site.worker, "worker", "lab", time.time(), url=other.url))


def pair(serve: Serve, web: dict[str, Any] | None = None) -> tuple[FakeServer, FakeServer]:
    one, two = FakeSource("lab"), FakeSource("lab")
    for number in range(6):
        (one if number % 2 else two).put(make_row(f"f{number}", now=1000.0 + number))
    one.put(make_row("here.bin", State.RECEIVING, now=2000.0))
    two.put(make_row("there.bin", State.QUARANTINED, now=2001.0, reason="expired"))
    results = FakeResults()
    file_id = next(iter(two.rows))
    results.docs[file_id] = {"class": "spall", "time": 5.0, "quantities": {}}
    results.sheets[file_id] = b"\x89PNG\r\n\x1a\nsheet"
    results.gemd[file_id] = b'{"context": [], "object": {}}'
    results.entries[file_id] = {"uid": "u", "name": "n", "sample": "s", "time": 5.0}
    first = serve(one, worker="one", web=web)
    second = serve(two, worker="two", web=web, results=results)
    introduce(first, second)
    return first, second


def test_every_file_is_seen_through_either_worker(serve: Serve, ask: Ask) -> None:
    first, second = pair(serve)
    expected = [*first.source.rows, *second.source.rows]
    for server in (first, second):
        answer = ask(server, "/api/v1/files").json()
        assert sorted(item["file_id"] for item in answer["items"]) == sorted(expected)
        assert [item["updated"] for item in answer["items"]] == sorted(
            (item["updated"] for item in answer["items"]), reverse=True
        )
        assert answer["notes"] == []
        for file_id in expected:
            assert ask(server, f"/api/v1/files/{file_id}").json()["item"]["file_id"] == file_id
            assert ask(server, f"/files/{file_id}", Accept="text/html").status == 200
        overview = ask(server, "/api/v1/overview").json()
        assert {name: sums["files"] for name, sums in overview["states"].items() if sums["files"]} == {
            "receiving": 1,
            "delivered": 6,
            "quarantined": 1,
        }
        assert [worker["id"] for worker in overview["workers"]] == [
            server.site.worker,
            *({"one", "two"} - {server.site.worker}),
        ]
        page = ask(server, "/", Accept="text/html").text
        assert "here.bin" in page and "there.bin" in page


def test_paging_over_two_workers_gives_each_row_once(serve: Serve, ask: Ask) -> None:
    first, second = pair(serve)
    found: list[str] = []
    cursor = ""
    while True:
        answer = ask(first, f"/api/v1/files?limit=3{cursor}").json()
        found += [item["file_id"] for item in answer["items"]]
        if not answer["next"]:
            break
        cursor = f"&cursor={answer['next']}"
    assert sorted(found) == sorted([*first.source.rows, *second.source.rows])


def test_sheet_result_record_and_replay_reach_the_worker_that_has_them(serve: Serve, ask: Ask) -> None:
    first, second = pair(serve)
    file_id = next(iter(second.source.rows))
    assert ask(first, f"/api/v1/files/{file_id}/sheet.png").body.endswith(b"sheet")
    assert ask(first, f"/api/v1/files/{file_id}/result").json()["result"]["class"] == "spall"
    assert ask(first, f"/api/v1/files/{file_id}/record").json() == {"context": [], "object": {}}
    assert ask(first, "/api/v1/pdv").json()["items"][0]["file_id"] == file_id
    assert ask(first, "/api/v1/gemd").json()["items"][0]["file_id"] == file_id
    bad = next(i for i, row in second.source.rows.items() if row.state == State.QUARANTINED)
    assert ask(first, f"/api/v1/files/{bad}/replay", "POST", X_OpenMSI_Streams="1").status == 202
    assert second.source.replayed == [bad]
    again = ask(first, f"/api/v1/files/{bad}/replay", "POST", X_OpenMSI_Streams="1")
    assert again.status == 409 and "not quarantined" in again.json()["error"]


def test_when_a_worker_is_killed_the_others_pages_stay_up_with_a_note(serve: Serve, ask: Ask) -> None:
    first, second = pair(serve)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    first.site.peers.take(Beat("two", "worker", "lab", time.time() + 1, url=dead))
    answer = ask(first, "/api/v1/files").json()
    assert sorted(item["file_id"] for item in answer["items"]) == sorted(first.source.rows)
    assert "Worker two does not answer" in answer["notes"][0]
    for path in ("/", "/files/", "/pdv/", "/quarantine/"):
        reply = ask(first, path, Accept="text/html")
        assert reply.status == 200 and "Worker two does not answer" in reply.text, path
    gone = ask(first, f"/api/v1/files/{next(iter(second.source.rows))}")
    assert gone.status == 503 and "Worker two does not answer" in gone.json()["hint"]
    first.site.peers.take(Beat("two", "worker", "lab", time.time() + 2, url=second.url))
    first.site.kept.clear()
    assert ask(first, "/api/v1/files").json()["notes"] == []


def test_the_row_that_was_seen_last_counts_while_a_partition_moves(serve: Serve, ask: Ask) -> None:
    one, two = FakeSource("lab"), FakeSource("lab")
    file_id = one.put(make_row("moving", State.RECEIVING, now=1000.0))
    two.put(make_row("moving", State.DELIVERED, now=1010.0))
    first, second = serve(one, worker="one"), serve(two, worker="two")
    introduce(first, second)
    items = ask(first, "/api/v1/files").json()["items"]
    assert [(item["file_id"], item["state"]) for item in items] == [(file_id, "delivered")]


def test_workers_prove_the_token_without_sending_it(serve: Serve, ask: Ask) -> None:
    first, second = pair(serve, web={"token": TOKEN})
    auth = {"Authorization": f"Bearer {TOKEN}"}
    answer = ask(first, "/api/v1/files?prefix=f%20%C3%A9%2B", **auth).json()
    assert answer["notes"] == []
    assert len(ask(first, "/api/v1/files", **auth).json()["items"]) == 8
    header = first.site.guard.peer_header("GET", "/api/v1/files?local=1")
    assert TOKEN not in str(header)
    named = {name.replace("-", "_"): value for name, value in header.items()}
    assert ask(second, "/api/v1/files?local=1", **named).status == 200
    # A signature is for one address and one minute.
    assert ask(second, "/api/v1/files?local=1&limit=5", **named).status == 401
    assert ask(second, "/api/v1/files?local=1", "POST", **named).status == 401
    old = security.Guard(WebSettings(token=TOKEN), clock=lambda: time.time() - 1000).peer_header("GET", "/metrics")
    assert ask(second, "/metrics", **{name.replace("-", "_"): value for name, value in old.items()}).status == 401


def test_a_worker_with_another_token_is_named(serve: Serve, ask: Ask) -> None:
    first = serve(FakeSource("lab"), worker="one", web={"token": TOKEN})
    second = serve(FakeSource("lab"), worker="two", web={"token": TOKEN + "-other"})
    introduce(first, second)
    notes = ask(first, "/api/v1/files", Authorization=f"Bearer {TOKEN}").json()["notes"]
    assert "Worker two does not answer (HTTP status 401)" in notes[0]


def test_no_note_once_the_partitions_of_a_dead_worker_have_moved() -> None:
    known = peers.Peers("me", security.Guard(WebSettings()))
    held = {"lab": [0]}
    known.mine = lambda: held
    known.take(Beat("dead", "worker", "lab", time.time(), partitions={"lab": [1, 2]}))
    known.take(Beat("alive", "worker", "lab", time.time(), partitions={"lab": [1]}))
    answers = [peers.Answer("dead", 0, problem="ConnectionRefused"), peers.Answer("alive", 200)]
    assert len(known.notes(answers)) == 1
    held["lab"].append(2)
    assert known.notes(answers) == []


def test_partitions_of_several_topics_are_gathered() -> None:
    known = peers.Peers("me", security.Guard(WebSettings()))
    for topic, numbers in (("a", [0]), ("b", [1, 2]), ("a", [0, 3])):
        found = peers.read_beat(topic, b"w_heartbeat", beat(role="worker", id="w", partitions=numbers), time.time())
        assert found is not None
        known.take(found)
    assert known.workers()[0].partitions == {"a": [0, 3], "b": [1, 2]}


def beat(**content: Any) -> bytes:
    return json.dumps(content).encode()


def test_heartbeats_of_all_programs_are_read() -> None:
    stock = peers.read_beat(
        "lab",
        b"scope-pc_heartbeat",
        beat(timestamp="2026-11-28T20:00:00+00:00", n_messages_produced=3, n_bytes_produced=3377),
        0.0,
    )
    assert stock is not None
    assert (stock.id, stock.role, stock.time) == ("scope-pc", "producer", 1795896000.0)
    assert stock.values["n_bytes_produced"] == 3377
    old = peers.read_beat("lab", b"x_heartbeat", beat(timestamp="2022-01-02 03:04:05.678"), 0.0)
    assert old is not None and old.time > 0
    value = peers.beat_value("w1", "http://127.0.0.1:6066", {"lab": [0, 2]}, 10.0)
    ours = peers.read_beat("lab", b"w1", value, 5.0)
    assert ours == Beat(
        "w1",
        "worker",
        "lab",
        5.0,
        "http://127.0.0.1:6066",
        {"lab": [0, 2]},
        "running",
        10.0,
        ours.values if ours else {},
    )
    evil = peers.read_beat("lab", b"w", beat(role="worker", id="w", url="file:///etc/passwd", partitions=["x"]), 1.0)
    assert evil is not None and evil.url == "" and evil.partitions == {}


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.none(), st.binary(max_size=60)), st.one_of(st.none(), st.binary(max_size=200)))
def test_what_is_no_heartbeat_is_passed_over(key: bytes | None, value: bytes | None) -> None:
    peers.read_beat("lab", key, value, 0.0)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["role", "id", "url", "partitions", "interval", "state", "timestamp", "n"]),
        st.recursive(
            st.one_of(st.none(), st.integers(), st.text(max_size=9), st.just("worker")),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    )
)
def test_a_heartbeat_of_any_shape_does_no_harm(content: dict[str, Any]) -> None:
    peers.read_beat("lab", b"key", json.dumps(content).encode(), 1.0)


def test_a_worker_that_says_goodbye_or_is_long_silent_is_forgotten() -> None:
    now = [1000.0]
    known = peers.Peers("me", security.Guard(WebSettings()), clock=lambda: now[0])
    known.take(Beat("a", "worker", "lab", 1000.0, url="http://127.0.0.1:1"))
    known.take(Beat("b", "worker", "lab", 1000.0, url="http://127.0.0.1:1"))
    known.take(Beat("b", "worker", "lab", 1001.0, url="http://127.0.0.1:1", state="leaving"))
    known.take(Beat("b", "worker", "lab", 999.0, url="http://127.0.0.1:1"))
    assert [beat.id for beat in known.workers()] == ["a"]
    now[0] += peers.FORGET_SECONDS + 1
    assert known.workers() == []


def test_producers_known_are_bounded() -> None:
    known = peers.Peers("me", security.Guard(WebSettings()))
    for number in range(peers.PRODUCERS + 50):
        known.take(Beat(f"p{number}", "producer", "lab", float(number)))
    assert len(known.producers()) == peers.PRODUCERS
    assert known.producers()[-1].id == "p50"


def test_quarantined_messages_are_kept_bounded_and_shown(serve: Serve, ask: Ask) -> None:
    headers = [
        ("kind", b"message"),
        ("topic", b"<i>lab</i>"),
        ("partition", b"2"),
        ("offset", b"17"),
        ("timestamp", b"1700000000.5"),
        ("reason", b"not_a_chunk"),
        ("message", b"\xff<script>"),
        ("original-x", None),
    ]
    item = reader.read_quarantined(headers)
    assert item is not None and (item["partition"], item["offset"], item["time"]) == (2, 17, 1700000000.5)
    assert reader.read_quarantined([("kind", b"file")]) is None and reader.read_quarantined(None) is None
    odd = reader.read_quarantined([("kind", b"message"), ("offset", b"x")])
    assert odd is not None and odd["offset"] == -1
    server = serve(FakeSource("lab"))
    server.site.notices.take(item)
    server.site.notices.take(item)
    assert len(ask(server, "/api/v1/quarantine").json()["items"]) == 1
    page = ask(server, "/quarantine/", Accept="text/html").text
    assert "&lt;i&gt;lab&lt;/i&gt;" in page and "<script>" not in page and "not_a_chunk" in page
    for number in range(2 * reader.KEPT):
        server.site.notices.take({**item, "offset": number})
    assert len(server.site.notices.newest(10**6)) == reader.KEPT
