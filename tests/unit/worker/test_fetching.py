"""Faust's consumer as this app changes it: when it stops, its feed stops first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import faust

from openmsi_streams.config import load
from openmsi_streams.worker.fetching import FETCH_WAIT_MS, adapt


def test_the_consumer_that_faust_makes_has_our_wait() -> None:
    async def made() -> int:
        app = faust.App("fetching", broker="kafka://127.0.0.1:1", autodiscover=False)
        adapt(app, load(environment={}), lambda error: None)
        thread = app.consumer._new_consumer_thread()
        return int(
            thread._create_worker_consumer(SimpleNamespace(url=app.conf.broker, default_port=9092))._fetch_max_wait_ms
        )

    assert asyncio.run(made()) == FETCH_WAIT_MS
