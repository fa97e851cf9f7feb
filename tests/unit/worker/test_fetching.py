"""What is otherwise in Faust's consumer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import faust

from openmsi_streams.config.settings import Settings
from openmsi_streams.worker.fetching import adapt


def test_a_fetch_that_waits_is_woken_when_a_full_stream_has_room_again() -> None:
    app = faust.App("fetching", broker="kafka://127.0.0.1:1", store="memory://")
    adapt(app, Settings(), lambda error: None)
    consumer = app.transport.Consumer.__new__(app.transport.Consumer)
    full: Any = ("lab", 0)
    consumer._active_partitions, consumer._buffered_partitions = set(), {full}
    woken: list[set[Any]] = []
    consumer._thread = SimpleNamespace(look_again=lambda: woken.append(set(consumer._active_partitions)))
    consumer.on_buffer_drop(full)
    assert woken == [{full}], "after the partition is one of those that are fetched"
