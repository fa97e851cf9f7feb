"""Two workers as processes: every file through either, and one that is killed takes no page down."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from openmsi_streams.chunks.keys import home_partition
from openmsi_streams.embedded import EmbeddedBroker
from tests.support.kafka import make_topics, produce
from tests.support.programs import run_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker, wait_delivered
from tests.support.world import World

pytestmark = pytest.mark.broker
TOKEN = "correct-horse-battery-staple"


def send(bootstrap: str, topic: str, tmp: Path, count: int) -> dict[str, str]:
    hashes = {}
    for number in range(count):
        path, data = f"f{number}.dat", hashlib.sha512(str(number).encode()).digest() * (number + 1)
        for key, value, where in World(tmp).chunks(path, data):
            produce(bootstrap, topic, [(key, value)], partition=home_partition(where, 3))
        hashes[path] = hashlib.sha512(data).hexdigest()
    return hashes


def get(url: str, token: str = "", accept: str = "application/json") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Accept": accept})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_two_workers_answer_for_each_other_and_one_survives_the_other(broker: EmbeddedBroker, tmp_path: Path) -> None:
    topic = "shared"
    make_topics(broker.bootstrap, topic)
    with (
        Worker(broker.bootstrap, topic, tmp_path, "w0", web__token=TOKEN) as one,
        Worker(broker.bootstrap, topic, tmp_path, "w1", web__token=TOKEN) as two,
    ):
        one.start()
        two.start(wait=False)

        def ask(worker: Worker, path: str) -> Any:
            status, text = get(worker.url.rstrip("/") + path, TOKEN)
            assert status == 200, text
            return json.loads(text)

        def held(worker: Worker) -> int:
            return sum(len(numbers) for numbers in ask(worker, "/api/v1/health")["partitions"].values())

        def both() -> bool:
            return bool(two.program and "worker ready" in two.program.text) and held(one) + held(two) == 3

        wait_until(lambda: both() and held(one) and held(two), 60, "both have partitions", lambda: one.text + two.text)
        hashes = send(broker.bootstrap, topic, tmp_path, 12)
        wait_delivered(broker.bootstrap, topic, hashes, 60, one, two)
        for worker in (one, two):
            wait_until(
                lambda w=worker: {item["path"] for item in ask(w, "/api/v1/files")["items"]} == set(hashes),
                40,
                "every file is seen through either worker",
                lambda w=worker: ask(w, "/api/v1/files"),
            )
            alone = {item["path"] for item in ask(worker, "/api/v1/files?local=1")["items"]}
            assert alone < set(hashes), "this worker has all partitions, so nothing was shown"

            # On a busy machine the other one may be too slow for a moment; what counts is that it is asked.
            def sums(w: Worker = worker) -> bool:
                overview = ask(w, "/api/v1/overview")
                return len(overview["workers"]) == 2 and overview["states"]["delivered"]["files"] == 12

            wait_until(sums, 40, "the overview is of both", lambda w=worker: ask(w, "/api/v1/overview"))
            for item in ask(worker, "/api/v1/files?local=1")["items"]:
                other = two if worker is one else one
                address = f"{other.url.rstrip('/')}/api/v1/files/{item['file_id']}"
                wait_until(lambda a=address: get(a, TOKEN)[0] == 200, 40, "the other worker shows the file too")
            assert get(worker.url.rstrip("/") + "/api/v1/files")[0] == 401

        two.kill9()
        wait_until(lambda: ask(one, "/api/v1/files")["notes"], 20, "a note names the dead worker", lambda: one.text)
        for path in ("/", "/files/", "/quarantine/", "/pdv/", "/gemd/"):
            status, text = get(one.url.rstrip("/") + path, TOKEN, "text/html")
            # That the note stands on each page too is held by a unit test, where no partition moves meanwhile.
            assert status == 200 and "<h1>" in text, path
        wait_until(lambda: held(one) == 3, 60, "the partitions have moved", lambda: one.text)
        wait_until(
            lambda: (
                {item["path"] for item in ask(one, "/api/v1/files")["items"]} == set(hashes)
                and not ask(one, "/api/v1/files")["notes"]
            ),
            40,
            "all is shown again, without a note",
            lambda: ask(one, "/api/v1/files"),
        )


def test_faust_shows_nothing_of_its_own_and_the_terminal_agrees(broker: EmbeddedBroker, tmp_path: Path) -> None:
    topic = "closed"
    make_topics(broker.bootstrap, topic)
    with Worker(broker.bootstrap, topic, tmp_path, gemd__enabled="true") as worker:
        worker.start()
        hashes = send(broker.bootstrap, topic, tmp_path, 2)
        wait_delivered(broker.bootstrap, topic, hashes, 60, worker)
        base = worker.url.rstrip("/")
        for path in ("/table/", "/router/", "/graph", "/stats", f"/table/{topic}/", "/performance/"):
            assert get(base + path)[0] == 404, path
        assert json.loads(get(base + "/health/ready")[1]) == {"ok": True, "status": 200}
        items = json.loads(get(base + "/files/")[1])["items"]
        assert {item["path"]: item["sha512"] for item in items} == hashes
        for item in items:
            status, page = get(f"{base}/files/{item['file_id']}", accept="text/html")
            assert status == 200 and "delivered" in page and "GEMD record" in page
            assert get(f"{base}/gemd/{item['file_id']}", accept="text/html")[0] == 200
        produce(broker.bootstrap, topic, [(b"k", b"poison")], partition=0)
        wait_until(
            lambda: (
                [item["reason"] for item in json.loads(get(base + "/api/v1/quarantine")[1])["items"]] == ["bad_fields"]
            ),
            40,
            "the poison is listed",
            lambda: worker.text,
        )
        assert "bad_fields" in get(base + "/quarantine/", accept="text/html")[1]
        code, text = run_cli("status", "f0.dat", "--url", base)
        assert code == 0 and "delivered" in text
        code, text = run_cli("status", "--url", base)
        assert code == 0 and "f1.dat" in text
        wait_until(
            lambda: get(base + "/metrics")[1].count('openmsi_streams_lag_messages{partition="') == 3,
            40,
            "each partition's lag is shown",
            lambda: get(base + "/metrics")[1],
        )
        from openmsi_streams.web.collect import problems

        metrics = get(base + "/metrics")[1]
        assert problems(metrics) == []
        assert 'openmsi_streams_delivered_files_total{topic="closed"} 2.0' in metrics
