"""What Faust's consumer must do otherwise: fetch with librdkafka, and begin at the beginning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from openmsi_streams.config import kafka
from openmsi_streams.config.settings import MIB, Settings

# The part of the memory budget for what is fetched and not yet in Faust's streams, which have a quarter themselves; and
# the least: with 3 MiB, fewer than two fetches, 512 MiB on the embedded broker took three times as long.
FEED_SHARE = 32
FEED_LEAST = 8 * MIB


def adapt(app: Any, settings: Settings, on_fault: Callable[[BaseException], None]) -> None:
    """Change the consumer of this app; call it before the app starts. ``on_fault``: nothing comes any more."""
    from faust.transport.drivers import aiokafka as driver
    from mode.services import WaitResults

    from openmsi_streams.worker.eager import Begun
    from openmsi_streams.worker.feed import Feed

    class Thread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
        _feed: Feed | None = None

        async def on_start(self) -> None:
            await super().on_start()
            fetcher = self._ensure_consumer()._fetcher
            budget = max(FEED_LEAST, settings.worker.memory_budget // FEED_SHARE)
            self._feed = Feed(fetcher, self.thread_loop, kafka.consumer(settings), budget, on_fault)

        async def _fetch_records(self, consumer: Any, active_partitions: Any, *args: Any, **kwargs: Any) -> Any:
            if self._feed is not None:
                # A partition whose streams are full for a moment is taken again soon: what is held of it is kept.
                full = self.consumer._buffered_partitions
                self._feed.want(active_partitions | full if active_partitions is not None else None)
            return await super()._fetch_records(consumer, active_partitions, *args, **kwargs)

        def look_again(self) -> None:
            if self._feed is not None:
                self._feed.look_again()

        async def on_thread_stop(self) -> None:
            if self._feed is not None:
                await asyncio.get_running_loop().run_in_executor(None, self._feed.close)
            await super().on_thread_stop()

        async def seek_to_committed(self) -> Any:
            """Seek to the committed offsets, and to the beginning where nothing is committed.

            Stock Faust leaves a partition without a committed offset where it is: behind what was fetched and thrown
            away while the tables were recovered. All of that was never processed (seen on Apache Kafka: a worker
            killed before its first commit, and files sent until its successor was ready).
            """
            committed = await super().seek_to_committed()
            changelogs = self.app.tables.changelog_topics
            begin = [tp for tp, offset in committed.items() if not offset or offset < 0]
            begin = [tp for tp in begin if tp.topic not in changelogs]
            if begin:
                await self.call_thread(self._ensure_consumer().seek_to_beginning, *begin)
            return committed

    class Consumer(driver.Consumer):  # type: ignore[misc]
        def on_buffer_drop(self, tp: Any) -> None:
            """Take a partition up again whose stream was full.

            Stock Faust does so when its fetch ends: a second later, if that waits for partitions that have nothing
            (on Apache Kafka a worker did nothing for half of the time, 0.9 s at a time).
            """
            super().on_buffer_drop(tp)
            self._thread.look_again()

        async def wait_first(self, *waits: Any, timeout: Any = None) -> Any:
            """Wait for the first of several, and begin the first of them at once.

            Stock Faust hands each message over with this, in a race with the order to stop: four tasks a message. The
            hand-over waits for nothing unless a stream is full. The agents get a turn after each, as before, or the
            streams would fill and their partitions pause.
            """
            if len(waits) == 1 or not asyncio.iscoroutine(waits[0]) or self._stopped.is_set():
                return await super().wait_first(*waits, timeout=timeout)
            begun = None
            try:
                begun = Begun(waits[0])
            finally:
                if begun is None or begun.done:
                    for other in filter(asyncio.iscoroutine, waits[1:]):
                        other.close()
            if not begun.done:
                return await super().wait_first(begun.rest(), *waits[1:], timeout=timeout)
            await asyncio.sleep(0)
            return WaitResults([waits[0]], [begun.value], stopped=False)

        def _new_consumer_thread(self) -> Any:
            return Thread(self, loop=self.loop, beacon=self.beacon)

    class Transport(driver.Transport):  # type: ignore[misc]
        pass

    Transport.Consumer = Consumer
    app.transport = Transport(app.conf.broker_consumer, app)
