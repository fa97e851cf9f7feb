"""What is read off the table when Prometheus asks, beside what the worker counts as it goes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from openmsi_streams.tables.rows import OPEN
from openmsi_streams.web import health
from openmsi_streams.web.site import Site
from openmsi_streams.worker import metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class SiteCollector(Collector):
    """The gauges of one worker's rows, health and heartbeats."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families without values, which also are the list of names."""
        yield from _families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families with the values of now."""
        site = self._site
        now = site.clock()
        files, size, ready, stores, rows, ages, late, workers = _families()
        partial = 0
        for (topic, state), sums in site.index.sums().items():
            partial += sums.received if state in OPEN else 0
            files.add_metric([topic, str(state)], sums.files)
            size.add_metric([topic, str(state)], sums.bytes)
        metrics.PARTIAL_BYTES.set(partial)
        status = site.source.health()
        ready.add_metric([], float(health.ready(status)[0]))
        for store, problem in dict(status.get("stores") or {}).items():
            stores.add_metric([store], float(not problem))
        rows.add_metric([], len(site.index))
        for beat in site.peers.producers()[:1000]:
            ages.add_metric([beat.topic, beat.id], max(0.0, now - beat.time))
        for beat in site.peers.workers():
            late.add_metric([beat.id], max(0.0, now - beat.time))
        workers.add_metric([], 1 + len(site.peers.workers()))
        yield from (files, size, ready, stores, rows, ages, late, workers)


def _families() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily(
            "openmsi_streams_files", "File versions in this worker's table, by state.", labels=["topic", "state"]
        ),
        GaugeMetricFamily(
            "openmsi_streams_file_bytes",
            "Bytes of the file versions in this worker's table.",
            labels=["topic", "state"],
        ),
        GaugeMetricFamily("openmsi_streams_ready", "1 if the worker is ready (see /health/ready), else 0.", labels=[]),
        GaugeMetricFamily("openmsi_streams_store_reachable", "1 if the store answers, else 0.", labels=["store"]),
        GaugeMetricFamily("openmsi_streams_table_rows", "Rows in this worker's table.", labels=[]),
        GaugeMetricFamily(
            "openmsi_streams_producer_heartbeat_age_seconds",
            "Seconds since a producer's last heartbeat.",
            labels=["topic", "producer"],
        ),
        GaugeMetricFamily(
            "openmsi_streams_worker_heartbeat_age_seconds",
            "Seconds since another worker's last heartbeat.",
            labels=["worker"],
        ),
        GaugeMetricFamily("openmsi_streams_workers", "Workers that are known, this one included.", labels=[]),
    )


def registry(site: Site) -> CollectorRegistry:
    """Return the registry of what belongs to one site and its process."""
    found = CollectorRegistry(auto_describe=False)
    found.register(SiteCollector(site))
    ProcessCollector(registry=found)
    return found


async def exposition(found: CollectorRegistry) -> bytes:
    """Return everything in Prometheus's text format."""
    # The counters guard themselves and go beside the event loop; the rows belong to the loop, and are few sums.
    rows = generate_latest(found)
    return rows + await asyncio.to_thread(generate_latest, metrics.REGISTRY)


def names() -> set[str]:
    """Return every metric's name, as it stands in the exposition (counters end in ``_total``)."""
    families = [*_families(), *metrics.REGISTRY.collect()]
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def topic_bytes() -> dict[str, float]:
    """Return the bytes that arrived per topic since the start."""
    return {
        sample.labels["topic"]: sample.value
        for family in metrics.CHUNK_BYTES.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


_LEGAL = re.compile(r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")


def problems(text: str) -> list[str]:
    """Return what `promtool check metrics` would find in an exposition; empty: nothing."""
    found: list[str] = []
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    seen: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split(" ", 3)[2])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            if name in kinds:
                found.append(f"{name}: declared twice")
            kinds[name] = kind
            if not _LEGAL.match(name):
                found.append(f"{name}: not a legal name")
            if kind == "counter" and not name.endswith("_total"):
                found.append(f"{name}: a counter's name ends in _total")
            if kind != "counter" and name.endswith("_total"):
                found.append(f"{name}: only a counter's name ends in _total")
        elif line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            if series in seen:
                found.append(f"{series}: twice")
            seen.add(series)
            try:
                float(value)
            except ValueError:
                found.append(f"{series}: {value!r} is not a number")
            name = series.partition("{")[0]
            base = re.sub(r"_(bucket|count|sum|created)$", "", name)
            if name not in kinds and base not in kinds and f"{base}_total" not in kinds:
                found.append(f"{name}: has no TYPE")
    return found + [f"{name}: has no HELP" for name in sorted(set(kinds) - helped)]
