"""The pages in a real browser: they look right, move, can be used by everyone, and run nothing they should not."""

from __future__ import annotations

import json
import socket
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from openmsi_streams.tables.rows import State
from openmsi_streams.web.fake import FakeResults, FakeServer, FakeSource, make_row
from openmsi_streams.web.peers import Beat
from tests.support.waiting import wait_until

Serve = Callable[..., FakeServer]
TOKEN = "correct-horse-battery-staple"
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>\u202egpj.exe"


def png(width: int = 64, height: int = 48) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = (b"\x00" + b"\xff\xff\xff\x1c\x5d\x99" * (width // 2)) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")


def laboratory() -> tuple[FakeSource, FakeResults, dict[str, str]]:
    """Return every kind of thing that a page can show, and the ids of some."""
    now = time.time()
    source, results = FakeSource("lab", "pdv", "xrd.scans"), FakeResults()
    for number in range(6):
        source.put(
            make_row(f"2026/11/22/run {number}/scan_{number:03}.csv", now=now - 30 * number, size=10 ** (number + 2))
        )
    ids = {
        "receiving": source.put(
            make_row(
                *("camera/long exposure.mov", State.RECEIVING),
                size=200_000_000,
                now=now,
                ranges=(0, 60_000_000, 80_000_000, 90_000_000, 120_000_000, 130_000_000),
            )
        ),
        "quarantined": source.put(
            make_row(
                *(HOSTILE, State.QUARANTINED),
                now=now - 1000,
                reason="file_hash_mismatch",
                message="The sha512 of the whole file is not what its chunks say.",
            )
        ),
    }
    source.put(make_row("camera/unknown.mov", State.RECEIVING, size=-1, now=now, ranges=(0, 60_000_000)))
    source.put(make_row("camera/checked.mov", State.VERIFYING, now=now))
    source.put(make_row("camera/stored.mov", State.DELIVERING, now=now))
    source.put(make_row("late/slow.csv", State.STALLED, now=now - 100))
    source.put(make_row("a" * 4000 + ".csv", State.QUARANTINED, now=now - 1100, reason="expired"))
    for number, kind in enumerate(("spall", "spall", "no_spall", "flyer", "no_shot", "unreadable")):
        file_id = source.put(
            make_row(f"2026/11/22/HTM-{number:03}/F2--20261122--0002{number}.trc", topic="pdv", now=now - 60)
        )
        quantities = {
            "peak_velocity": {"value": 612.4 + number, "unit": "m/s", "sigma": 1.31},
            "spall_strength": {"value": 2.1 + 0.2 * number, "unit": "GPa", "sigma": 0.113},
            "strain_rate": {"value": 3e5 * 1.5**number, "unit": "1/s", "sigma": 4e4},
        }
        results.docs[file_id] = {
            "class": kind,
            "reason": "A clear pull-back follows the peak.",
            "quantities": quantities if kind == "spall" else {},
            "quality": {"snr_db": 21.0, "flags": ["clipped"] if number == 1 else []},
        }
        if kind != "unreadable":
            results.sheets[file_id] = png()
        results.gemd[file_id] = json.dumps(
            {
                "context": [
                    {"type": "process_run", "name": "Sample provenance not recorded", "uids": {"auto": "p"}},
                    {
                        "type": "material_run",
                        "name": "Sample HTM-0042",
                        "uids": {"auto": "m", "igsn": "JHXMT00042"},
                        "process": {"type": "link_by_uid", "scope": "auto", "id": "p"},
                    },
                    {"type": "measurement_spec", "name": "PDV trace", "uids": {"auto": "s"}},
                    {
                        "type": "measurement_run",
                        "name": f"PDV trace 2026112{number}",
                        "uids": {"auto": "r"},
                        "material": {"type": "link_by_uid", "scope": "auto", "id": "m"},
                        "spec": {"type": "link_by_uid", "scope": "auto", "id": "s"},
                        "conditions": [
                            {
                                "name": "Drive laser energy",
                                "value": {"type": "normal_real", "mean": 812.0, "std": 9.0, "units": "millijoule"},
                            }
                        ],
                        "file_links": [{"filename": "F2.trc", "url": "s3://openmsi/F2.trc"}],
                    },
                ],
                "object": {"type": "link_by_uid", "scope": "auto", "id": "r"},
            }
        ).encode()
        results.entries[file_id] = {
            "uid": "r",
            "name": f"PDV trace {number}",
            "kind": "measurement_run",
            "sample": f"HTM-{number % 2}",
            "time": now,
        }
        ids[kind] = file_id
    return source, results, ids


def served(serve: Serve, **more: Any) -> tuple[FakeServer, dict[str, str]]:
    source, results, ids = laboratory()
    ran = {"ok": 12, "retried": 1, "failed": 1, "last_time": time.time(), "last_seconds": 1.4, "last_error": HOSTILE}
    processors = [{"name": "mylab.xrd:plot", "topics": ["xrd.scans"], "match": ["*.csv"], **ran}, {"name": "mylab:new"}]
    server = serve(source, results=results, processors=lambda: processors, **more)
    now = time.time()
    server.site.peers.take(
        Beat("scope-pc", "producer", "pdv", now, values={"n_bytes_produced": 12_300_000}, interval=30)
    )
    server.site.peers.take(Beat("xrd-pc", "producer", "xrd.scans", now - 500, interval=30))
    server.site.peers.take(Beat("worker-2", "worker", "lab", now - 100, partitions={"lab": [7]}))
    return server, ids


def pages(ids: dict[str, str]) -> dict[str, str]:
    return {
        "overview": "/",
        "files": "/files/",
        "file-receiving": f"/files/{ids['receiving']}",
        "file-quarantined": f"/files/{ids['quarantined']}",
        "file-pdv": f"/files/{ids['spall']}",
        "pdv": "/pdv/",
        "gemd": "/gemd/",
        "record": f"/gemd/{ids['spall']}",
        "quarantine": "/quarantine/",
        "processors": "/processors/",
        "problem": "/nothing",
    }


def test_every_page_fits_runs_clean_and_has_no_serious_accessibility_fault(
    serve: Serve, browser: Any, axe: str
) -> None:
    server, ids = served(serve)
    faults: list[str] = []
    for name, path in pages(ids).items():
        for size in ("desktop", "phone"):
            for scheme in ("light", "dark"):
                browser.look(size, scheme)
                browser.complaints()
                browser.open(server.url + path)
                width = browser.run("return document.documentElement.scrollWidth")
                assert width <= browser.run("return window.innerWidth"), f"{name} is too wide for a {size}"
                assert browser.run("return window.hacked === undefined")
                assert browser.shoot(name, size, scheme).stat().st_size > 1000
                browser.look(size, scheme)
                said = [line for line in browser.complaints() if "404" not in line]
                assert said == [], f"{name}: {said}"
                if (size, scheme) not in (("desktop", "light"), ("phone", "dark")):
                    # Each layout and each set of colours once.
                    continue
                browser.run(axe)
                found = browser.driver.execute_async_script(
                    "const done = arguments[arguments.length - 1];"
                    "axe.run(document, {resultTypes: ['violations']})"
                    ".then(r => done(r.violations), e => done([{id: String(e)}]))"
                )
                faults += [
                    f"{name} {size} {scheme}: {fault['id']} {[node['target'] for node in fault.get('nodes', [])][:3]}"
                    for fault in found
                    if fault.get("impact") in ("serious", "critical", None)
                ]
    assert faults == [], "\n".join(faults)


def pieces(browser: Any, file_id: str) -> list[tuple[float, float]]:
    return [
        (float(x), float(width))
        for x, width in browser.run(
            "return [...document.querySelectorAll(`[data-file='${arguments[0]}'] .there`)]"
            ".map(r => [r.getAttribute('x'), r.getAttribute('width')])",
            file_id,
        )
    ]


def test_the_bar_moves_and_its_gaps_are_the_missing_ranges(serve: Serve, browser: Any) -> None:
    source = FakeSource("lab")
    now = time.time()
    file_id = source.put(make_row("big.mov", State.RECEIVING, size=1000, now=now, ranges=()))
    server = serve(source)
    browser.look()
    browser.open(server.url + "/")
    assert pieces(browser, file_id) == []
    for ranges in ((0, 100), (0, 100, 300, 500), (0, 500), (0, 500, 900, 1000)):
        row = make_row("big.mov", State.RECEIVING, size=1000, now=time.time(), ranges=ranges)
        server.on_loop(lambda row=row: source.put(row))
        expected = [(start / 10, (end - start) / 10) for start, end in zip(ranges[::2], ranges[1::2], strict=True)]
        wait_until(lambda e=expected: pieces(browser, file_id) == e, 20, f"the bar shows {expected}")
    server.on_loop(lambda: source.put(make_row("big.mov", State.DELIVERED, size=1000, now=time.time())))
    wait_until(lambda: "Nothing is on its way" in browser.text(), 20, "the file is delivered")
    assert browser.run("return document.querySelector('#delivered').parentNode.innerText").count("big.mov") == 1


def test_focus_stays_where_it_was_while_the_page_moves(serve: Serve, browser: Any) -> None:
    source = FakeSource("lab")
    kept = source.put(make_row("kept.mov", State.RECEIVING, size=1000, now=time.time(), ranges=(0, 100)))
    server = serve(source)
    browser.open(server.url + "/")
    browser.run("document.querySelector(`[data-file='${arguments[0]}'] a`).focus()", kept)
    server.on_loop(lambda: source.put(make_row("new.mov", State.RECEIVING, size=1000, now=time.time() + 1)))
    wait_until(lambda: "new.mov" in browser.text(), 20, "the new file is shown")
    assert browser.run("return document.activeElement.textContent") == "kept.mov"


def test_a_page_says_it_is_old_when_the_worker_is_gone(serve: Serve, browser: Any) -> None:
    source = FakeSource("lab")
    source.put(make_row("here.csv"))
    with FakeServer(source) as server:
        browser.open(server.url + "/")
        assert "here.csv" in browser.text()
    wait_until(
        lambda: browser.run("return document.querySelector('[data-live]').classList.contains('gone')"), 20, "grey"
    )
    assert "here.csv" in browser.text()


def test_times_are_in_the_viewers_zone(serve: Serve, browser: Any) -> None:
    source = FakeSource("lab")
    source.put(make_row("x.csv", now=1_700_000_000.0))
    server = serve(source)
    browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
    try:
        browser.open(server.url + "/files/")
        assert "7:13:20" in browser.find(".rows time").text
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_replay_from_the_page_puts_a_quarantined_file_through(serve: Serve, browser: Any) -> None:
    server, ids = served(serve)
    browser.look()
    browser.open(f"{server.url}/files/{ids['quarantined']}")
    browser.find(".trouble button").click()
    wait_until(lambda: "The file goes through again." in browser.text(), 20, "the page says so")
    assert server.source.replayed == [ids["quarantined"]]
    assert browser.text_of("#state .badge") == "receiving"


def test_the_file_page_shows_the_sheet_and_its_values(serve: Serve, browser: Any) -> None:
    server, ids = served(serve)
    browser.open(f"{server.url}/files/{ids['spall']}")
    image = "const image = document.querySelector('img.sheet'); return image.complete && image.naturalWidth"
    assert wait_until(lambda: browser.run(image), 20, "the sheet is loaded") == 64
    assert "613.4 ± 1.3 m/s" in browser.text() and "2.30 ± 0.11 GPa" in browser.text()


def test_login_with_the_keyboard_alone(serve: Serve, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    server, ids = served(serve, web={"token": TOKEN})
    browser.driver.delete_all_cookies()
    browser.look()
    browser.open(f"{server.url}/files/{ids['spall']}")
    assert "Log in" in browser.text() and "F2--" not in browser.text()
    focus = "return document.activeElement ? document.activeElement.id : ''"
    wait_until(lambda: browser.run(focus) == "token", 20, "the field has the focus")
    browser.driver.switch_to.active_element.send_keys("wrong", Keys.ENTER)
    wait_until(lambda: "That token is wrong." in browser.text(), 20, "the wrong token is refused")
    browser.shoot("login", "phone", "dark")
    browser.look()
    wait_until(lambda: browser.run(focus) == "token", 20, "the field has the focus again")
    browser.driver.switch_to.active_element.send_keys(TOKEN, Keys.ENTER)
    wait_until(lambda: "F2--20261122" in browser.text(), 20, "the page asked for is shown")
    browser.find("header button").click()
    wait_until(lambda: "Log in" in browser.text(), 20, "logged out")
    browser.open(server.url + "/")
    assert "F2--" not in browser.text()


def test_without_a_token_nothing_is_shown_on_another_address(serve: Serve, browser: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: only asks which address of ours would be used.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but 127.0.0.1")
        address = probe.getsockname()[0]
    # Such a worker does not start (web.mount refuses); should one run all the same, it shows nothing.
    server, ids = served(serve, host="0.0.0.0")
    port = server.url.rpartition(":")[2]
    for path in pages(ids).values():
        browser.open(f"http://{address}:{port}{path}")
        assert "Nothing is shown on this address without a token." in browser.text()
        assert "scan_" not in browser.text() and "F2--" not in browser.text()
