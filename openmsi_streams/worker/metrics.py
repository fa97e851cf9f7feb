"""What a worker counts, for Prometheus: one registry, one name each, documented in docs/metrics.md.

The engine calls these as it goes (``CHUNKS.labels(topic).inc()``); a call takes about a microsecond and never blocks.
Values that can be read off the table when somebody asks (files by state, age of heartbeats) are not counted here but
collected by `openmsi_streams.web.collect` at the time of a scrape.
"""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from openmsi_streams import __version__

REGISTRY = CollectorRegistry(auto_describe=True)
"""Ours alone: the default registry also holds whatever other libraries of the process register."""

# From a small file on a quick broker to a 100 GB file over a night.
_LONG = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
# From an fsync to a multipart upload of an hour.
_STORE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
# From a short trace to the time limit of an analysis.
_ANALYSIS = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300)

CHUNKS = Counter("openmsi_streams_chunks", "Chunks that brought new bytes of a file.", ("topic",), registry=REGISTRY)
CHUNK_BYTES = Counter(
    "openmsi_streams_chunk_bytes", "Bytes of files that arrived in chunks.", ("topic",), registry=REGISTRY
)
DUPLICATES = Counter(
    "openmsi_streams_duplicate_chunks", "Chunks whose bytes were already there.", ("topic",), registry=REGISTRY
)
FORWARDED = Counter(
    "openmsi_streams_forwarded_chunks", "Chunks forwarded to their home partition.", ("topic",), registry=REGISTRY
)
QUARANTINED = Counter(
    "openmsi_streams_quarantined",
    "Messages and file versions put into quarantine.",
    ("topic", "reason"),
    registry=REGISTRY,
)
REPLAYED = Counter(
    "openmsi_streams_replayed", "Quarantined files and messages put back through.", ("topic",), registry=REGISTRY
)
REFILLS = Counter(
    "openmsi_streams_refills",
    "Refills from the log, by outcome: whole, partial (the log lacked some) or failed.",
    ("topic", "outcome"),
    registry=REGISTRY,
)
REFILLED_BYTES = Counter(
    "openmsi_streams_refilled_bytes", "Bytes of files that refills read again.", ("topic",), registry=REGISTRY
)
REQUESTS = Counter(
    "openmsi_streams_requests", "Requests to producers to send ranges again.", ("topic",), registry=REGISTRY
)
REASSEMBLY_SECONDS = Histogram(
    "openmsi_streams_reassembly_seconds",
    "From a file's first chunk to its last byte.",
    ("topic",),
    buckets=_LONG,
    registry=REGISTRY,
)
VERIFY_SECONDS = Histogram(
    "openmsi_streams_verify_seconds",
    "From a file's last byte to its checked sha512.",
    ("topic",),
    buckets=_STORE,
    registry=REGISTRY,
)
DELIVERY_SECONDS = Histogram(
    "openmsi_streams_delivery_seconds",
    "From the checked sha512 to the store's confirmation.",
    ("topic", "store"),
    buckets=_STORE,
    registry=REGISTRY,
)
FILE_SECONDS = Histogram(
    "openmsi_streams_file_seconds",
    "From a file's first chunk to its delivery into every store.",
    ("topic",),
    buckets=_LONG,
    registry=REGISTRY,
)
DELIVERED = Counter("openmsi_streams_delivered_files", "File versions delivered.", ("topic",), registry=REGISTRY)
DELIVERED_BYTES = Counter(
    "openmsi_streams_delivered_bytes", "Bytes of delivered file versions.", ("topic",), registry=REGISTRY
)
STORE_FAILURES = Counter(
    "openmsi_streams_store_failures", "Tries of a store that failed and are made again.", ("store",), registry=REGISTRY
)
ROW_WRITES = Counter(
    "openmsi_streams_row_writes", "Rows written to the table (each goes to the changelog).", registry=REGISTRY
)
ROW_BYTES = Counter("openmsi_streams_row_bytes", "Bytes of the rows written.", registry=REGISTRY)
PARTIAL_BYTES = Gauge(
    "openmsi_streams_partial_bytes", "Bytes that have arrived of files that are not settled.", registry=REGISTRY
)
FREE_BYTES = Gauge(
    "openmsi_streams_disk_free_bytes", "Free bytes of the file system that partial files are on.", registry=REGISTRY
)
MEMORY_USED = Gauge(
    "openmsi_streams_memory_used_bytes", "Bytes of the memory budget that are in use.", registry=REGISTRY
)
MEMORY_BUDGET = Gauge("openmsi_streams_memory_budget_bytes", "Bytes of the memory budget.", registry=REGISTRY)
INTAKE_PAUSED = Gauge("openmsi_streams_intake_paused", "1 while no chunks are taken, else 0.", registry=REGISTRY)
COMMIT_AGE = Gauge(
    "openmsi_streams_commit_age_seconds",
    "Seconds since the committed offset last moved while there is something to commit.",
    ("topic", "partition"),
    registry=REGISTRY,
)
LAG = Gauge(
    "openmsi_streams_lag_messages",
    "Messages between the committed offset and the end of the log.",
    ("topic", "partition"),
    registry=REGISTRY,
)
PDV = Counter("openmsi_streams_pdv_analyses", "PDV analyses, by class of the result.", ("class",), registry=REGISTRY)
PDV_SECONDS = Histogram(
    "openmsi_streams_pdv_seconds", "Seconds of a PDV analysis.", ("class",), buckets=_ANALYSIS, registry=REGISTRY
)
RECORDS = Counter("openmsi_streams_gemd_records", "GEMD records emitted.", ("topic",), registry=REGISTRY)
PROCESSED = Counter(
    "openmsi_streams_processed",
    "Runs of a lab's own processors, by outcome: ok, retried or failed.",
    ("processor", "outcome"),
    registry=REGISTRY,
)
HEARTBEATS = Counter(
    "openmsi_streams_heartbeats", "Heartbeats read, by role: producer or worker.", ("role",), registry=REGISTRY
)
LOOP_STALL = Gauge(
    "openmsi_streams_loop_stall_seconds",
    "The longest time that the event loop was not free in the last minute.",
    registry=REGISTRY,
)
LOOP_HOLD = Gauge(
    "openmsi_streams_loop_hold_seconds",
    "The part of such a time in which this process computed, at most.",
    registry=REGISTRY,
)
VIEW_SECONDS = Histogram(
    "openmsi_streams_view_seconds",
    "Seconds to answer a request of the web views, by route.",
    ("route",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=REGISTRY,
)
for _metric in (
    *(CHUNKS, CHUNK_BYTES, DUPLICATES, DELIVERED, DELIVERED_BYTES, RECORDS),
    *(REASSEMBLY_SECONDS, VERIFY_SECONDS, DELIVERY_SECONDS, FILE_SECONDS),
):
    # Used for each chunk or file, and their labels never go: looking one up by its values costs more than counting.
    _metric.labels = cache(_metric.labels)  # type: ignore[method-assign, assignment]
BUILD = Gauge("openmsi_streams_build_info", "Always 1; the label is the version.", ("version",), registry=REGISTRY)
BUILD.labels(__version__).set(1)
