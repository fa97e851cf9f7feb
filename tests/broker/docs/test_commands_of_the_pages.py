"""Every command of README and docs, run as a reader would, with a broker, an S3 server and a worker for all."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from openmsi_streams.embedded.ports import free_port
from tests.support.doc_blocks import PAGES, ROOT, blocks, cannot_run, commands
from tests.support.doc_reader import Reader, reader_name, settings_of
from tests.support.kafka import make_topics
from tests.support.programs import Program, spawn_cli
from tests.support.waiting import wait_until
from tests.support.workers import receipts

pytestmark = pytest.mark.broker

SHOT = "2026/11/22/HTM-0042/F2--20261122--00025.csv"
# What the instruments of the laboratory have written before a reader comes: topic -> path -> content.
INSTRUMENTS: dict[str, dict[str, bytes]] = {
    "lab": {"notes.txt": b"Monday", "trouble.txt": b"unreadable", "scope/2026/11/22/shot-0042.trc": b"\0" * 5000},
    "scans": {"run 07/frame_001.tiff": b"II*\0" * 2000, "run 07/frame_002.tiff": b"II*\0" * 3000},
    "xrd": {"scan.csv": b"20.0,1\n20.1,2\n"},
    "lasershock-pdv": {SHOT: b"time,volts\n0,1\n"},
    "scope3": {"first.txt": b"there"},
}
TROUBLE = """
from openmsi_streams.processors import RejectFile, processor

@processor(topic="lab", match="trouble*")
def trouble(file):
    raise RejectFile("no detector is known that writes this")
"""


@dataclass
class Lab:
    """What all readers share."""

    broker: EmbeddedBroker
    s3: EmbeddedS3
    folder: Path
    web: str
    worker: Program

    def settings(self, **tables: str) -> str:
        """Return the settings file that the worker was started with, for a reader that has one."""
        return settings_of(self.broker, self.s3, "lab-data", **tables)

    def reader(self, page: Path) -> Reader:
        """Return a reader with an empty home folder."""
        home = self.folder / page.relative_to(ROOT).as_posix().replace("/", "-")
        return Reader(home, self.broker.bootstrap, self.web, self.folder / "store")


def processors_module(folder: Path) -> None:
    """Write the module that docs/processors.md tells its reader to write, and one that has trouble."""
    package = folder / "mylab"
    package.mkdir(parents=True)
    code = next(blocks("python", page=ROOT / "docs/processors.md"))
    (package / "__init__.py").write_text("")
    (package / "xrd.py").write_text(code.text)
    (package / "trouble.py").write_text(TROUBLE)


def upload(folder: Path, broker: EmbeddedBroker, topic: str) -> Program:
    """Write the files of a topic's instrument and begin to send them; the program ends when they are delivered."""
    source = folder / "instruments" / topic
    for path, content in INSTRUMENTS[topic].items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    words = ("--topic", topic, "--broker", broker.bootstrap, "--state", folder / "registries" / topic)
    return spawn_cli("upload", source, *words, "--wait-for-receipts", "100")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    processors_module(folder / "python")
    with EmbeddedBroker() as broker, EmbeddedS3() as s3:
        s3.make_bucket("lab-data")
        make_topics(broker.bootstrap, list(INSTRUMENTS), 1)
        port = free_port()
        settings = folder / "worker.toml"
        settings.write_text(
            settings_of(
                *(broker, s3, "lab-data"),
                worker=f"topics = {json.dumps(list(INSTRUMENTS))}\nprofile = 'embedded'\ndata = '{folder / 'worker'}'",
                disk=f"root = '{folder / 'store'}'\nfree_floor = 1000000",
                web=f"port = {port}",
                pdv="enabled = false",
                gemd=f"mapping = '{ROOT / 'docs/examples/lab.toml'}'",
                processors='load = ["mylab.xrd:lines", "mylab.trouble:trouble"]',
            )
        )
        with spawn_cli("worker", "--config", settings, env={"PYTHONPATH": str(folder / "python")}) as worker:
            worker.wait_for("worker ready")
            with ExitStack() as uploads:
                started = [uploads.enter_context(upload(folder, broker, topic)) for topic in INSTRUMENTS]
                for one in started:
                    assert one.wait(120) == 0, one.text + worker.text
            yield Lab(broker, s3, folder, f"http://127.0.0.1:{port}", worker)
            assert worker.terminate() == 0, worker.text


# -- what the reader of a page has, or does of their own accord; what must be so afterwards is returned ----------------

Setup = Callable[[Lab, Reader], Callable[[], None] | None]
SETUPS: dict[str, Setup] = {}


def page(name: str) -> Callable[[Setup], Setup]:
    """Say what is so for the reader of a page."""

    def keep(setup: Setup) -> Setup:
        SETUPS[name] = setup
        return setup

    return keep


def number_of(name: str, start: str) -> int:
    """Return the number of the page's block that has a line which starts so."""
    found = [
        one.number for one in blocks(page=ROOT / name) if any(line.startswith(start) for line in one.text.splitlines())
    ]
    assert len(found) == 1, (name, start, found)
    return found[0]


@page("README.md")
def readme(lab: Lab, reader: Reader) -> Callable[[], None]:
    """The whole way to a first file, with a broker and an S3 server of the reader's own."""
    reader.env["OPENMSI_STREAMS__BROKER__BOOTSTRAP"] = f"127.0.0.1:{reader.values['broker_port']}"
    reader.has_a_worker()
    settings = number_of("README.md", "[s3.main]")
    reader.files[settings] = "openmsi-streams.toml"
    name = "openmsi-streams s3 --bucket my-bucket --data buckets"

    def copy_the_keys() -> None:
        keys = dict(
            line.split(" = ") for line in reader.said[name].splitlines() if line.startswith(("access_", "secret_"))
        )
        reader.more['"embedded-..."'] = keys["access_key_id"]
        reader.more['"..."'] = keys["secret_access_key"]

    def copy_a_file_into_the_folder() -> None:
        reader.put("my-data/shot.csv", b"1,2\n" * 1000)
        reader.programs["watch"].wait_for("delivered shot.csv")

    def go_on_with_kafka() -> None:
        for server in ("watch", "worker", "s3", "broker"):
            reader.leave(server)
        reader.env["OPENMSI_STREAMS__BROKER__BOOTSTRAP"] = lab.broker.bootstrap
        reader.has_a_topic("lab")
        (reader.home / "openmsi-streams.toml").unlink()

    reader.before[settings] = copy_the_keys
    reader.before[number_of("README.md", "openmsi-streams status shot.csv")] = copy_a_file_into_the_folder
    reader.before[number_of("README.md", "openmsi-streams watch C:")] = go_on_with_kafka
    (reader.home / "Data").mkdir()

    def after() -> None:
        assert (reader.home / "buckets/my-bucket/lab/shot.csv").read_bytes() == b"1,2\n" * 1000
        assert (reader.home / "back/shot.csv").read_bytes() == b"1,2\n" * 1000

    return after


@page("docs/api.md")
def api(lab: Lab, reader: Reader) -> Callable[[], None]:
    reader.env["TOKEN"] = "this-worker-needs-none"

    reader.more_python = '\nprint("|".join(one["path"] for one in files(topic="scans", limit=1)))\n'

    def after() -> None:
        for command, text in reader.said.items():
            if command.startswith("curl"):
                assert json.loads(text)["ok"] is True
            else:
                assert set(text.strip().split("|")) == set(INSTRUMENTS["scans"])

    return after


@page("docs/demo.md")
def demo(lab: Lab, reader: Reader) -> Callable[[], None]:
    def after() -> None:
        assert (reader.home / "buckets/lab").is_dir()
        assert any("http://127.0.0.1:" in text for command, text in reader.said.items() if command.startswith("python"))

    return after


@page("docs/encryption.md")
def encryption(lab: Lab, reader: Reader) -> Callable[[], None]:
    def make_topics_first() -> None:
        # The node that the settings name is made by the page's next commands; only its name counts for the plan.
        reader.env["OPENMSI_STREAMS__CRYPTO__NODE"] = "lab-pc-3/lab-pc-3.config"
        reader.env["OPENMSI_STREAMS__WORKER__TOPICS"] = "shots.files"
        reader.do("openmsi-streams topics apply")
        del reader.env["OPENMSI_STREAMS__CRYPTO__NODE"]

    def send_a_file_and_move_the_vault_key() -> None:
        reader.put("shot.dat", b"confidential")
        reader.env["OPENMSI_STREAMS__CRYPTO__NODE"] = "lab-pc-3/lab-pc-3.config"
        # It would stay for a reader that asks for its key; the vault has it already.
        sending = ("upload", reader.home / "shot.dat", "--topic", "shots.files")
        with spawn_cli(*sending, env=reader.env, cwd=reader.home) as upload:
            upload.wait_for("sent shot.dat")
            upload.interrupt()
        del reader.env["OPENMSI_STREAMS__CRYPTO__NODE"]
        (reader.home / "authority/vault.key").rename(reader.home / "vault.key")

    reader.before[number_of("docs/encryption.md", "openmsi-streams crypto init-authority")] = make_topics_first
    reader.before[number_of("docs/encryption.md", "openmsi-streams crypto vault")] = send_a_file_and_move_the_vault_key

    def after() -> None:
        assert (reader.home / "rescued/shots.files/shot.dat").read_bytes() == b"confidential"

    return after


@page("docs/instrument-pc.md")
def instrument_pc(lab: Lab, reader: Reader) -> Callable[[], None]:
    reader.files[number_of("docs/instrument-pc.md", "[broker]")] = "lab/lab.toml"
    reader.put("Data/test.txt", "does it arrive?")
    reader.put("Data/shot_0412/F2.csv", "0,1\n")

    def after() -> None:
        found = {(one.path, one.state) for one in receipts(lab.broker.bootstrap, "scope3")}
        assert ("F2.csv", "delivered") in found or ("shot_0412/F2.csv", "delivered") in found, found
        assert (reader.home / "root").is_dir() and "start" in (reader.home / "systemctl.log").read_text()

    return after


@page("docs/migration.md")
def migration(lab: Lab, reader: Reader) -> Callable[[], None]:
    reader.has_a_worker()
    del reader.env["OPENMSI_STREAMS__BROKER__BOOTSTRAP"]
    reader.has_a_topic("lab")
    reader.put("data/moved.txt", "as before")
    reader.put(
        "lab.config",
        f"[broker]\nbootstrap.servers = {lab.broker.bootstrap}\n[producer]\nbatch.size = 200000\n"
        "key.serializer = StringSerializer\nvalue.serializer = DataFileChunkSerializer\n"
        "[consumer]\ngroup.id = create_new\nauto.offset.reset = earliest\nkey.deserializer = StringDeserializer\n"
        "value.deserializer = DataFileChunkDeserializer\n",
    )

    def after() -> None:
        assert lab.broker.bootstrap in (reader.home / "openmsi-streams.toml").read_text()
        delivered = reader.home / "delivered" / reader.more["--topic lab"].split()[1] / "moved.txt"
        wait_until(delivered.exists, 60.0, "a file comes from the old settings' producer to the old settings' worker")

    return after


@page("docs/operations.md")
def operations(lab: Lab, reader: Reader) -> Callable[[], None]:
    reader.put("openmsi-streams.toml", lab.settings(disk=f"root = '{lab.folder / 'store'}'"))

    def after() -> None:
        assert "processor_failed" in reader.said["openmsi-streams replay --topic lab --list"]
        assert "1 put back" in reader.said["openmsi-streams replay --topic lab --reason processor_failed --all"]
        deep = reader.said["openmsi-streams verify lab --config openmsi-streams.toml --deep"]
        # Three files in two stores.
        assert "6 equal, 0 missing, 0 different" in deep, deep

    return after


@page("docs/processors.md")
def processors(lab: Lab, reader: Reader) -> Callable[[], None]:
    processors_module(reader.home / "python")
    reader.put("scan.csv", INSTRUMENTS["xrd"]["scan.csv"])
    reader.put("openmsi-streams.toml", lab.settings(processors='load = ["mylab.xrd:lines"]'))

    def after() -> None:
        assert "scan.csv" in reader.said["openmsi-streams processors again --topic xrd --match '*.csv' --dry-run"]
        assert (reader.home / "results/scan.csv.summary.txt").read_text() == "2 lines\n"

    return after


@page("docs/records.md")
def records(lab: Lab, reader: Reader) -> Callable[[], None]:
    reader.copy(ROOT / "docs/examples/lab.toml", "lab.toml")
    reader.put("openmsi-streams.toml", lab.settings())
    reader.put("shot.csv", INSTRUMENTS["lasershock-pdv"][SHOT])
    reader.put("shot.json", json.dumps({"laser": {"energy_mJ": 812, "energy_sd_mJ": 4}, "operator": "A. Person"}))
    reader.put(
        "result.json",
        json.dumps(
            {
                "schema": "openmsi_streams.pdv/1",
                "class": "spall",
                "quantities": {"peak_velocity": {"value": 500.0, "unit": "m/s", "sigma": 1.0}},
            }
        ),
    )
    glass = [{"recordId": "3", "modId": "7", "Glass name": "Borosilicate", "Glass ID": "G-01", "Glass Thickness": 0.06}]
    reader.put("export/Glass ID.json", json.dumps(glass))

    def after() -> None:
        assert "F2--20261122--00025" in (reader.home / "shots.csv").read_text()
        for name in ("campaign.json", "graph.graphml", "model.json"):
            assert (reader.home / name).stat().st_size > 100, name
        assert any((reader.home / "records").rglob("*.json")) and any((reader.home / "thin").rglob("*.json"))

    return after


@page("docs/s3.md")
def s3(lab: Lab, reader: Reader) -> Callable[[], None]:
    reader.files[number_of("docs/s3.md", "[s3.main]")] = "openmsi-streams.toml"
    reader.more = {
        "https://s3.example.org": lab.s3.endpoint,
        "AKIA...": lab.s3.access_key,
        "SECRET_ACCESS_KEY=...": f"SECRET_ACCESS_KEY={lab.s3.secret_key}",
    }
    reader.copy(lab.folder / "instruments/scans", "instrument")
    (found,) = (lab.folder / "registries/scans").rglob("registry.sqlite3")
    reader.copy(found, "registry.sqlite3")
    one = receipts(lab.broker.bootstrap, "scans")[0]
    reader.values["file_id"] = one.file_id
    reader.env["OPENMSI_STREAMS__DISK__ROOT"] = str(lab.folder / "store")

    def after() -> None:
        for path, content in INSTRUMENTS["scans"].items():
            assert (reader.home / "back" / path).read_bytes() == content

    return after


@page("docs/server.md")
def server(lab: Lab, reader: Reader) -> Callable[[], None]:
    reader.has_a_worker()
    del reader.env["OPENMSI_STREAMS__BROKER__BOOTSTRAP"], reader.env["OPENMSI_STREAMS__WORKER__DATA"]
    reader.has_a_topic("lab")
    reader.files[number_of("docs/server.md", 'bootstrap = "kafka.lab.example:9092"')] = "openmsi-streams.toml"
    reader.copy(ROOT / "deploy", "deploy")

    def after() -> None:
        assert (reader.home / "state").is_dir() and (reader.home / "delivered").is_dir()

    return after


@page("docs/services.md")
def services(lab: Lab, reader: Reader) -> Callable[[], None]:
    reader.put("openmsi-streams.toml", lab.settings(worker='topics = ["lab"]'))
    reader.put("lab/lab.toml", lab.settings())
    (reader.home / "Data").mkdir()

    def after() -> None:
        calls = (reader.home / "systemctl.log").read_text()
        assert "start openmsi-streams-lab-worker.service" in calls and "start openmsi-streams-xrd.service" in calls
        assert [path.name for path in (reader.home / "root").rglob("*.service")] == ["openmsi-streams-xrd.service"]

    return after


@page("docs/troubleshooting.md")
def troubleshooting(lab: Lab, reader: Reader) -> None:
    reader.put("openmsi-streams.toml", lab.settings(worker='topics = ["lab"]'))


@page("docs/web.md")
def web(lab: Lab, reader: Reader) -> Callable[[], None]:
    def after() -> None:
        assert len(reader.env["OPENMSI_STREAMS__WEB__TOKEN"]) >= 40
        assert "delivered" in reader.said["openmsi-streams status scope/2026/11/22/shot-0042.trc"]

    return after


def has_commands(path: Path) -> bool:
    return any(
        not cannot_run(command)
        for block in blocks("sh", "bat", page=path)
        if not block.made
        for command in commands(block.text)
    )


WITH_COMMANDS = [path.relative_to(ROOT).as_posix() for path in PAGES if has_commands(path)]


@pytest.fixture(scope="module")
def read(lab: Lab, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """Let three readers read at a time, as most of their time is waiting; page -> what came of it."""
    here = [one for one in request.session.items if one.path == request.path]
    chosen = [one.callspec.params["name"] for one in here if hasattr(one, "callspec")]
    with ThreadPoolExecutor(3) as threads:
        yield {name: threads.submit(read_page, lab, name) for name in chosen}


def read_page(lab: Lab, name: str) -> None:
    """Do all that a page says and look what came of it."""
    reader = lab.reader(ROOT / name)
    after = SETUPS[name](lab, reader)
    try:
        reader.read(ROOT / name)
        if after is not None:
            after()
    finally:
        reader.close()


def test_every_page_with_commands_has_a_reader() -> None:
    """A new page, or a page's first command: say in this file what its reader has before."""
    assert set(SETUPS) == set(WITH_COMMANDS)


def test_python_stands_on_pages_that_are_read() -> None:
    assert {one.page.relative_to(ROOT).as_posix() for one in blocks("python")} <= set(SETUPS)


@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_every_command_of_a_page_runs(name: str, read: dict[str, Future[None]]) -> None:
    read[name].result()


def test_no_topic_came_to_be_that_is_not_documented(lab: Lab, read: dict[str, Future[None]]) -> None:
    """Faust, KafkaCrypto and our own programs make topics: each is of a kind that docs/topics.md names."""
    wait(read.values())
    told = (ROOT / "docs/topics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|", told, re.MULTILINE)
    kinds = [re.escape(name).replace("ID", ".+").replace("lab", ".+") for name in rows]
    # Of key exchange the page tells in a sentence.
    kinds += [re.escape(name).replace("<root>", ".+") for name in re.findall(r"`(<root>\.\w+|\w+list|chains)`", told)]
    assert len(kinds) >= 20
    there = set(AdminClient({"bootstrap.servers": lab.broker.bootstrap}).list_topics(timeout=30).topics)
    # The table's first row is the chunk topic itself, under any name; these are the tests' own.
    ours = {*INSTRUMENTS, "shots.files", "__consumer_offsets"} | {reader_name(name) for name in WITH_COMMANDS}
    strange = {name for name in there - ours if not any(re.fullmatch(kind, name) for kind in kinds[1:])}
    assert not strange and "lab.receipts" in there, strange


def test_no_metric_is_given_that_is_not_documented(lab: Lab, read: dict[str, Future[None]]) -> None:
    wait(read.values())
    with urllib.request.urlopen(f"{lab.web}/metrics", timeout=30) as answer:
        names = set(re.findall(r"^# TYPE (\w+) ", answer.read().decode(), re.MULTILINE))
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(openmsi_streams_\w+)` \|", page, re.MULTILINE))
    # `_created` is a counter's or histogram's own time, which the page tells in a sentence.
    told |= {f"{name.removesuffix('_total')}_created" for name in told} if "`..._created`" in page else set()
    strange = {name for name in names - told if not name.startswith("process_")}
    assert not strange and "openmsi_streams_delivered_files_total" in names, strange
