"""A real transfer, watched in a real browser: broker and worker as a laboratory runs them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from openmsi_streams.chunks.keys import file_id, home_partition
from openmsi_streams.embedded import EmbeddedBroker
from openmsi_streams.web.numbers import measured
from tests.support.kafka import make_topics, produce
from tests.support.waiting import wait_until
from tests.support.workers import Worker, wait_delivered
from tests.support.world import World

pytestmark = pytest.mark.broker


def pieces(browser: Any, identity: str) -> list[tuple[float, float]]:
    """Return start and width of each piece of a file's bar on the overview, in percent."""
    return [
        (float(x), float(width))
        for x, width in browser.run(
            "return [...document.querySelectorAll(`[data-file='${arguments[0]}'] .there`)]"
            ".map(r => [r.getAttribute('x'), r.getAttribute('width')])",
            identity,
        )
    ]


def test_the_bar_follows_a_transfer_from_nothing_to_delivered(
    broker: EmbeddedBroker, browser: Any, tmp_path: Path
) -> None:
    topic = "watched"
    make_topics(broker.bootstrap, topic)
    data = hashlib.sha512(b"watched").digest() * 157
    digest = hashlib.sha512(data).hexdigest()
    identity = file_id(topic, "scope/shot 1.dat", digest)
    chunks = [chunk[:2] for chunk in World(tmp_path).chunks("scope/shot 1.dat", data)]
    where = home_partition("scope/shot 1.dat", 3)
    size, piece = len(data), 1000
    with Worker(broker.bootstrap, topic, tmp_path) as worker:
        worker.start()
        browser.look()
        browser.open(worker.url)
        assert pieces(browser, identity) == []

        def shows(*ranges: tuple[int, int]) -> None:
            expected = [(round(100 * a / size, 3), round(100 * (b - a) / size, 3)) for a, b in ranges]
            wait_until(
                lambda: pieces(browser, identity) == expected, 30, f"the bar shows {ranges}", lambda: worker.text
            )

        # The last chunk first, so that the size is known and every gap is a missing range.
        produce(broker.bootstrap, topic, [chunks[-1]], partition=where)
        last = (len(chunks) - 1) * piece
        shows((last, size))
        produce(broker.bootstrap, topic, chunks[:2], partition=where)
        shows((0, 2 * piece), (last, size))
        produce(broker.bootstrap, topic, chunks[4:6], partition=where)
        shows((0, 2 * piece), (4 * piece, 6 * piece), (last, size))
        browser.shoot("transfer", "desktop", "light")
        produce(broker.bootstrap, topic, [*chunks[2:4], *chunks[6:-1]], partition=where)
        wait_until(
            lambda: "shot 1.dat" in browser.run("return document.querySelector('#delivered').parentNode.innerText"),
            30,
            "the file is delivered",
            lambda: worker.text,
        )
        wait_delivered(broker.bootstrap, topic, {"scope/shot 1.dat": digest}, 30, worker)
        browser.open(f"{worker.url.rstrip('/')}/files/{identity}")
        assert browser.find("#state .badge").text == "delivered"
        assert digest in browser.text() and "Confirmed by store disk" in browser.text()
        assert browser.find("#missing").text == "none"


def test_replay_from_the_page_puts_a_quarantined_file_through(
    broker: EmbeddedBroker, browser: Any, tmp_path: Path
) -> None:
    topic = "again"
    make_topics(broker.bootstrap, topic)
    data = hashlib.sha512(b"again").digest() * 80
    digest = hashlib.sha512(data).hexdigest()
    identity = file_id(topic, "late.dat", digest)
    chunks = [chunk[:2] for chunk in World(tmp_path).chunks("late.dat", data)]
    where = home_partition("late.dat", 3)
    with Worker(broker.bootstrap, topic, tmp_path, worker__stall_after=1, worker__expire_after=2) as worker:
        worker.start()
        produce(broker.bootstrap, topic, chunks[:2], partition=where)

        def state() -> str:
            items = worker.get("/api/v1/files")["items"]
            return str(items[0]["state"]) if items else ""

        wait_until(lambda: state() == "quarantined", 40, "it expires", lambda: worker.text)
        browser.look()
        browser.open(f"{worker.url.rstrip('/')}/files/{identity}")
        assert browser.text_of("#state .badge") == "quarantined" and "expired" in browser.text()
        browser.find(".trouble button").click()
        wait_until(lambda: "The file goes through again." in browser.text(), 30, "the page says so", browser.text)
        produce(broker.bootstrap, topic, chunks[2:], partition=where)
        wait_delivered(broker.bootstrap, topic, {"late.dat": digest}, 40, worker)
        wait_until(lambda: browser.text_of("#state .badge") == "delivered", 40, "the page shows it", browser.text)
        assert (worker.root / topic / "late.dat").read_bytes() == data


def test_a_shot_shows_its_sheet_and_values_on_its_page(broker: EmbeddedBroker, browser: Any, tmp_path: Path) -> None:
    from openmsi_streams.pdv.synthetic import write_trc

    topic, path = "pdv", "HTM-0042/F2--00025.trc"
    make_topics(broker.bootstrap, topic)
    write_trc(tmp_path / "shot.trc")
    data = (tmp_path / "shot.trc").read_bytes()
    digest = hashlib.sha512(data).hexdigest()
    identity = file_id(topic, path, digest)
    chunks = [chunk[:2] for chunk in World(tmp_path).chunks(path, data, chunk_bytes=512 * 1024)]
    with Worker(broker.bootstrap, topic, tmp_path, pdv__enabled="true", gemd__enabled="true") as worker:
        worker.start()
        produce(broker.bootstrap, topic, chunks, partition=home_partition(path, 3))
        wait_delivered(broker.bootstrap, topic, {path: digest}, 60, worker)
        wait_until(lambda: worker.get("/api/v1/pdv")["items"], 90, "the shot is analysed", lambda: worker.text)
        found = worker.get("/api/v1/pdv")["items"][0]
        assert (found["file_id"], found["path"], found["class"]) == (identity, path, "spall")
        browser.look()
        browser.open(f"{worker.url.rstrip('/')}/files/{identity}")
        image = (
            "const image = document.querySelector('img.sheet'); return image && image.complete && image.naturalWidth"
        )
        assert wait_until(lambda: browser.run(image), 30, "the sheet is shown", browser.text) > 500
        strength = found["quantities"]["spall_strength"]
        assert "spall strength" in browser.text() and measured(strength) in browser.text()
        assert browser.run("return [...document.querySelectorAll('h2')].some(h => h.innerText == 'GEMD record')")
        for name, address in (
            ("real-shot", f"/files/{identity}"),
            ("real-pdv", "/pdv/"),
            ("real-record", f"/gemd/{identity}"),
        ):
            browser.open(worker.url.rstrip("/") + address)
            browser.shoot(name, "desktop", "light")
            browser.look()
