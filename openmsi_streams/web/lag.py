"""How many messages wait between the committed offset and the end of the log, per partition of this worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openmsi_streams.config import kafka
from openmsi_streams.config.settings import Settings
from openmsi_streams.worker import metrics

# Two small requests a partition; Prometheus asks every 15 s as a rule.
LAG_SECONDS = 15.0
_ANSWER = 5.0


class Lag:
    """Asks the broker, from a thread. Never joins the group: it only reads what the group has committed."""

    def __init__(self, settings: Settings, group: str, partitions: Callable[[], dict[str, list[int]]]) -> None:
        self._settings, self._group, self._partitions = settings, group, partitions
        self._consumer: Any = None
        self._shown: set[tuple[str, int]] = set()

    def update(self) -> None:
        """Set the metric for each partition that this worker holds, and drop it for those that have left.

        Raises:
            confluent_kafka.KafkaException: if the broker does not answer.
        """
        from confluent_kafka import Consumer, TopicPartition

        held = {(topic, number) for topic, numbers in self._partitions().items() for number in numbers}
        for topic, number in self._shown - held:
            metrics.LAG.remove(topic, str(number))
        self._shown &= held
        if not held:
            return
        if self._consumer is None:
            self._consumer = Consumer(kafka.consumer(self._settings, **{"group.id": self._group}))
        places = [TopicPartition(topic, number) for topic, number in sorted(held)]
        for place in self._consumer.committed(places, timeout=_ANSWER):
            low, high = self._consumer.get_watermark_offsets(place, timeout=_ANSWER)
            # Nothing committed yet: everything that is there waits.
            done = place.offset if place.offset >= 0 else low
            metrics.LAG.labels(place.topic, str(place.partition)).set(max(0, high - done))
            self._shown.add((place.topic, place.partition))

    def close(self) -> None:
        """Close the connection."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
