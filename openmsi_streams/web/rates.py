"""Bytes a second, per topic and per file, from a few samples of the last seconds."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping

# A rate over less jumps with every batch of chunks, over more it lags behind what a person sees.
WINDOW = 8.0
# Files sampled; more than a page shows.
_FILES = 500

Samples = deque[tuple[float, float]]


def _rate(samples: Samples) -> float | None:
    if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
        return None
    return max(0.0, (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0]))


class Rates:
    """Samples of growing byte counts."""

    def __init__(self) -> None:
        self._topics: dict[str, Samples] = {}
        self._files: OrderedDict[str, Samples] = OrderedDict()

    def _add(self, samples: Samples, now: float, value: float) -> None:
        if samples and now - samples[-1][0] < 0.5:
            return
        samples.append((now, value))
        while len(samples) > 2 and now - samples[0][0] > WINDOW:
            samples.popleft()

    def sample_topics(self, now: float, counts: Mapping[str, float]) -> None:
        """Take the counters of all topics."""
        for topic, count in counts.items():
            self._add(self._topics.setdefault(topic, deque()), now, count)

    def topic(self, topic: str) -> float:
        """Return bytes a second."""
        return _rate(self._topics.get(topic, deque())) or 0.0

    def file(self, file_id: str, now: float, received: int, since: float) -> float | None:
        """Take a file's bytes and return its bytes a second; None while nothing is known."""
        samples = self._files.get(file_id)
        if samples is None:
            # Its own first chunk is the first sample, if that was not long ago.
            samples = deque([(since, 0.0)] if 0 < now - since <= WINDOW else [])
            self._files[file_id] = samples
            if len(self._files) > _FILES:
                self._files.popitem(last=False)
        self._add(samples, now, received)
        return _rate(samples)
