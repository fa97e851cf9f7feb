"""Every setting, typed, with its default and its meaning. `config.load` fills this from file, environment and flags."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Positive = Annotated[float, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0)]
# Marks what may be written with a unit (see `config.sizes`).
BYTES = {"unit": "bytes"}
ByteCount = Annotated[int, Meta(ge=0, extra=BYTES)]


class Section(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: a key that is not known is an error, never ignored."""

    def __repr__(self) -> str:
        """Return the section with secrets blotted out: settings end up in tracebacks and logs."""
        shown = ", ".join(f"{name}={_blotted(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({shown})"


class BrokerSettings(Section):
    """`[broker]`: where Kafka is and how to be let in."""

    bootstrap: str = "127.0.0.1:9092"
    """Addresses of brokers, ``host:port`` with commas between."""
    options: dict[str, str] = {}
    """Any librdkafka client setting, e.g. ``security.protocol``, ``sasl.username``; also used for the worker."""
    connect_timeout: Positive = 30.0
    """Seconds to wait for a broker before a command gives up."""


class ChunkSettings(Section):
    """`[chunks]`: size limits; everything else that limits a message's size is derived from these."""

    chunk_bytes: Annotated[int, Meta(ge=1 * KIB, le=16 * MIB, extra=BYTES)] = 512 * KIB
    """Bytes of a file in one message. 512 KiB is OpenMSIStream's default and stays below Kafka's 1 MB."""
    largest_chunk: Annotated[int, Meta(ge=1 * KIB, le=64 * MIB, extra=BYTES)] = 16 * MIB
    """The largest chunk that a worker takes from any producer, in bytes."""
    max_file_bytes: ByteCount = 5 << 40
    """Files above this are refused; 5 TiB is the largest S3 object."""


class TopicSettings(Section):
    """`[topic]`: how topics are created."""

    partitions: Annotated[int, Meta(ge=1)] = 3
    """Partitions of a new chunk topic: the most workers that can share it. Siblings and tables follow."""
    replication: Annotated[int, Meta(ge=1)] = 1
    """Brokers that hold each message; 3 in production."""
    retention_hours: Positive = 168.0
    """How long the log keeps chunks; longer than any outage a lab wants to survive."""


class ProducerSettings(Section):
    """`[producer]`: the program beside the instrument."""

    wire: Literal[9, 10] = 10
    """Fields of a chunk message; 9 for readers older than OpenMSIStream 1.8.6.1."""
    quiet_seconds: Seconds = 3.0
    """A file is whole when its size and mtime have not changed for so long."""
    polling: bool = False
    """Poll instead of native events; needed on network drives."""
    existing: bool = True
    """Also send the files that are there at start and unknown to the registry."""
    rescan_seconds: Positive = 60.0
    """Walk the folder this often: events get lost."""
    include: list[str] = []
    """Glob patterns of relative paths to send; empty: all."""
    exclude: list[str] = []
    """Glob patterns of relative paths not to send, beside the defaults."""
    bandwidth: ByteCount = 0
    """Bytes a second at most; 0: no limit."""
    queue_bytes: Annotated[int, Meta(ge=1 * MIB, extra=BYTES)] = 64 * MIB
    """Bytes on their way to the broker at most."""
    when_delivered: str = "keep"
    """What happens to a file after its receipt: ``keep``, ``archive:DIR`` or ``delete``."""
    grace_seconds: Seconds = 60.0
    """How long after the receipt."""
    state: str = ""
    """Folder of the registry; empty: the platform's application folder."""
    heartbeat_seconds: Positive = 30.0
    """Seconds between heartbeats."""
    producer_id: str = ""
    """Name of this producer in heartbeats; empty: the host's name and the folder."""
    heartbeats: bool = True
    """Send heartbeats and log lines to ``<topic>.heartbeats`` and ``<topic>.logs``, in OpenMSIStream's format."""
    heartbeat_topic: str = ""
    """Another topic for heartbeats; empty: ``<topic>.heartbeats``."""
    log_topic: str = ""
    """Another topic for log lines; empty: ``<topic>.logs``."""
    log_seconds: Positive = 60.0
    """Seconds between two messages of log lines."""
    done_marker: str = ""
    """A file is whole only when one of its name and this suffix (``.done``) stands beside it; empty: no such rule."""
    stable_looks: Annotated[int, Meta(ge=0)] = 0
    """A file is whole only after so many looks in a row, one second apart, found the same size; 0: no such rule."""
    select: list[str] = []
    """Rules that send only a part of LeCroy files: ``PATTERN rows FIRST COUNT`` or ``PATTERN seconds FROM TO``."""
    compression: Literal["none", "lz4", "zstd", "snappy", "gzip"] = "none"
    """Instrument files are mostly incompressible; use ``lz4`` for text."""
    headers: dict[str, str] = {}
    """Kafka headers to put on each file's chunks, e.g. ``igsn``."""
    options: dict[str, str] = {}
    """librdkafka settings of producers alone, e.g. ``linger.ms``; what keeps the promises cannot be set here."""


class WorkerSettings(Section):
    """`[worker]`: the Faust worker."""

    id: str = "openmsi-streams"
    """Application id: consumer group and changelog names. Workers that share it share the work."""
    topics: list[str] = []
    """Chunk topics to read."""
    data: str = ""
    """Folder for RocksDB and work files of this worker; empty: the platform's application folder."""
    memory_budget: Annotated[int, Meta(ge=32 * MIB, extra=BYTES)] = 128 * MIB
    """Bytes that chunks in flight, refills and uploads may take together."""
    stall_after: Positive = 60.0
    """Seconds without a new byte before a file is stalled and its missing ranges are asked for."""
    expire_after: Positive = 7 * 86400.0
    """Seconds without a new byte before a partial file is given up and quarantined."""
    keep_rows_for: Positive = 30 * 86400.0
    """Seconds that rows of delivered files stay in the table."""
    versions: Literal["replace", "keep"] = "replace"
    """What happens to an older version of a path: replaced, or kept under `.versions/`."""
    sweep_seconds: Positive = 1.0
    """Interval of the ticks that drive sweeps."""
    replicas: Annotated[int, Meta(ge=0)] = 0
    """Standby copies of each table partition on other workers."""
    session_seconds: Positive = 30.0
    """Consumer session timeout; 6 on the embedded broker, whose joins take half of it."""
    strict_paths: bool = False
    """Quarantine files whose path no rule expects, instead of flagging them."""
    expected_paths: list[str] = []
    """Regular expressions; a path that matches none is flagged ``unexpected_path``. Empty: all are expected."""
    threads: Annotated[int, Meta(ge=1, le=64)] = 4
    """Threads for writing, hashing and storing."""
    profile: Literal["", "embedded"] = ""
    """``embedded``: short timeouts for the embedded broker."""
    options: dict[str, str] = {}
    """librdkafka settings of the worker's readers alone, e.g. ``fetch.min.bytes``."""


class DiskSettings(Section):
    """`[disk]`: the disk store."""

    root: str = ""
    """Folder that files are delivered to; empty: no disk store (partial files then live under ``worker.data``)."""
    mode: str = ""
    """Octal mode of delivered files, e.g. ``0640``; empty: as the umask says."""
    owner: str = ""
    """``user:group`` of delivered files; empty: the worker's."""
    free_floor: ByteCount = 1 * GIB
    """Intake pauses when the file system has less free bytes than this."""


class S3Settings(Section):
    """`[s3.NAME]`: one S3 store."""

    bucket: str = ""
    """Bucket that files are put into; a worker does not start without it."""
    endpoint: str = ""
    """URL; empty: AWS."""
    region: str = "us-east-1"
    """Region of the bucket; most servers of your own take any."""
    access_key_id: str = ""
    """Name of the key; empty: the usual AWS places (environment, profile, instance role)."""
    secret_access_key: str = ""
    """Secret of the key; best ``$NAME`` or ``@PATH``."""
    session_token: str = ""
    """Token of temporary keys."""
    profile: str = ""
    """Profile of the AWS credential files, used when no keys are given."""
    ca: str = ""
    """Path of a CA bundle."""
    path_style: bool = True
    """``endpoint/bucket/key`` addresses; AWS takes both, servers of your own often this one alone."""
    key: str = "{topic}/{subdir}/{filename}"
    """Template of object keys."""
    topics: list[str] = []
    """Topics stored here; empty: all."""
    part_bytes: Annotated[int, Meta(ge=5 * MIB, extra=BYTES)] = 8 * MIB
    """Smallest part of a multipart upload; it grows so that 10,000 parts suffice."""
    equal_parts: bool = False
    """All parts of an upload have the same size; Cloudflare R2 wants it."""
    parallel: Annotated[int, Meta(ge=1, le=64)] = 4
    """Parts of one file on their way at the same time."""
    bandwidth: ByteCount = 0
    """Bytes a second at most; 0: no limit."""
    checksum: Literal["auto", "crc64nvme", "sha256", "md5"] = "auto"
    """How S3 checks what it gets; ``auto`` asks the server once for the best that it knows."""
    orphan_hours: Positive = 24.0
    """Multipart uploads of ours that no row knows are aborted after so long."""


class PdvSettings(Section):
    """`[pdv]`: analysis of photon Doppler velocimetry records."""

    enabled: bool = True
    """Whether delivered files are analysed."""
    topics: list[str] = []
    """Topics whose files are analysed; empty: all."""
    match: str = ""
    """Regular expression on the path; empty: scope files found by name and content."""
    wavelength_nm: Seconds = 0.0
    """Wavelength of the laser in vacuum, nm; 0: not said, 1550 is taken and flagged."""
    angle_deg: float = 0.0
    """Angle between the beam and the direction of motion, degrees; 0: not said, and flagged."""
    material: str = ""
    """Name of the target material, whose density and sound speeds give stresses; empty: copper is taken and flagged."""
    standoff_mm: Seconds = 0.0
    """Distance after which a flyer strikes, mm; 0: not said, 0.125 is taken."""
    rules: list[dict[str, str | float]] = []
    """Settings by file: glob patterns ``topic`` and ``path``, and any of the analysis's settings; later ones win."""
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    """Analyses at the same time, each in a process of its own."""
    time_limit: Positive = 120.0
    """Seconds that one analysis may take."""
    memory_limit: ByteCount = 4 * GIB
    """Bytes that one analysis may take."""


class GemdSettings(Section):
    """`[gemd]`: records."""

    enabled: bool = True
    """Whether delivered files are described as records."""
    mapping: str = ""
    """Path of the lab's mapping file; empty: the default mapping."""


class CryptoSettings(Section):
    """`[crypto]`: KafkaCrypto."""

    node: str = ""
    """Path of the node's `.config` file; empty: no encryption."""
    topics: list[str] = []
    """Topics on which every message must be encrypted; empty, with a node: all."""
    wait_seconds: Positive = 86400.0
    """How long a message may wait for its key before it is quarantined as ciphertext."""
    compression: Literal["none", "zlib"] = "none"
    """Compression before encryption; with ``zlib`` only our own readers understand the values."""


class WebSettings(Section):
    """`[web]`: views, metrics and health."""

    host: str = "127.0.0.1"
    """Address that the views are served on."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 6066
    """Port of the views; 0: any free one."""
    token: str = ""
    """Bearer token; needed before ``host`` may be anything but a loopback address."""
    behind_proxy: bool = False
    """A reverse proxy in front checks who comes in."""
    public_url: str = ""
    """How other workers reach this one; empty: host and port."""


class ProcessorSettings(Section):
    """`[processors]`: a lab's own functions."""

    load: list[str] = []
    """``package.module:function`` of each processor, beside those found as entry points."""
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    """Functions at the same time, each in a process of its own."""
    time_limit: Positive = 300.0
    """Seconds that a function may take for one file, if it names no limit of its own."""
    memory_limit: ByteCount = 4 * GIB
    """Bytes that its process may take."""
    retries: Annotated[int, Meta(ge=0)] = 3
    """Times that a failed file is tried again, with growing waits, before it is quarantined."""


class Settings(Section):
    """All settings."""

    broker: BrokerSettings = msgspec.field(default_factory=BrokerSettings)
    chunks: ChunkSettings = msgspec.field(default_factory=ChunkSettings)
    topic: TopicSettings = msgspec.field(default_factory=TopicSettings)
    producer: ProducerSettings = msgspec.field(default_factory=ProducerSettings)
    worker: WorkerSettings = msgspec.field(default_factory=WorkerSettings)
    disk: DiskSettings = msgspec.field(default_factory=DiskSettings)
    s3: dict[str, S3Settings] = {}
    pdv: PdvSettings = msgspec.field(default_factory=PdvSettings)
    gemd: GemdSettings = msgspec.field(default_factory=GemdSettings)
    crypto: CryptoSettings = msgspec.field(default_factory=CryptoSettings)
    web: WebSettings = msgspec.field(default_factory=WebSettings)
    processors: ProcessorSettings = msgspec.field(default_factory=ProcessorSettings)


SECRETS = frozenset(
    {
        "secret_access_key",
        "session_token",
        "token",
        "sasl.password",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
    }
)
"""Keys whose value is never shown."""


def _blotted(name: str, value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_blotted(str(key), one)}" for key, one in value.items()) + "}"
    return "'***'" if name in SECRETS and value else repr(value)
