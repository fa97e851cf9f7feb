"""Shots through a live worker: analysed once each whatever is killed, again on request, with the same bytes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from openmsi_streams.embedded import EmbeddedBroker
from openmsi_streams.pdv.synthetic import write_trc
from tests.support.files import sha512_of
from tests.support.kafka import make_topics, read_all
from tests.support.programs import run_cli
from tests.support.waiting import wait_until
from tests.support.workers import Worker, receipts

pytestmark = pytest.mark.broker


def test_a_worker_killed_during_analysis_gives_one_result_a_shot(broker: EmbeddedBroker, tmp_path: Path) -> None:
    topic = "shots"
    make_topics(broker.bootstrap, topic)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(2):
        write_trc(source / f"F2--20260630--0000{number}.trc", seed=number)
    settings = {"pdv__enabled": "true", "pdv__rules": '[{"path": "*.trc", "material": "copper"}]'}
    with Worker(broker.bootstrap, topic, tmp_path, **settings) as worker:
        worker.start()
        code, text = run_cli("upload", source, "--topic", topic, "--broker", broker.bootstrap)
        assert code == 0, text
        wait_until(lambda: len(receipts(broker.bootstrap, topic)) >= 2, 60, "both are delivered", lambda: worker.text)
        worker.kill9()
        worker.start()

        def results() -> dict[bytes, list[bytes]]:
            found: dict[bytes, list[bytes]] = {}
            for message in read_all(broker.bootstrap, f"{topic}.pdv"):
                found.setdefault(message.key() or b"", []).append(message.value() or b"")
            return found

        wait_until(lambda: len(results()) == 2, 120, "both are analysed", lambda: worker.text[-3000:])
        folder = tmp_path / "store" / topic
        names = {p.name for p in folder.iterdir()}
        for number in range(2):
            stem = f"F2--20260630--0000{number}"
            assert {f"pdv_spall_plots_{stem}.png", f"{stem}.pdv.json", f"{stem}.pdv_velocity.csv"} <= names
        assert len([name for name in names if name.endswith(".pdv.json")]) == 2
        first = {key: values[0] for key, values in results().items()}
        hashes = {p.name: sha512_of(p) for p in folder.iterdir()}
        for value in first.values():
            result = msgspec.json.decode(value)
            assert result["class"] == "spall" and "material_default" not in result["quality"]["flags"]

        code, text = run_cli("pdv", "replay", "--topic", topic, "--broker", broker.bootstrap, "--class", "flyer")
        assert code == 0 and "0 shots put back" in text
        before = sum(map(len, results().values()))
        code, text = run_cli("pdv", "replay", "--topic", topic, "--broker", broker.bootstrap, "--class", "spall")
        assert code == 0 and "2 shots put back" in text, text
        wait_until(
            lambda: sum(map(len, results().values())) >= before + 2, 120, "both again", lambda: worker.text[-3000:]
        )
        assert all(set(values) == {first[key]} for key, values in results().items()), "the same bytes"
        assert {p.name: sha512_of(p) for p in folder.iterdir()} == hashes
