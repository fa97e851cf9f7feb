"""A real worker delivers to S3 through a proxy: killed during uploads, with a failing server, no secret shown."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openmsi_streams.config.settings import MIB
from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from openmsi_streams.storage.parts import Plan
from openmsi_streams.storage.s3 import S3Store
from tests.support.files import make_files, sha512_of
from tests.support.kafka import make_topics, read_all
from tests.support.programs import run_cli, spawn_cli
from tests.support.s3_proxy import S3Proxy
from tests.support.stores import s3_settings
from tests.support.waiting import wait_until
from tests.support.workers import Worker, wait_delivered

pytestmark = [pytest.mark.broker, pytest.mark.faults]

# As long as a server takes to be started anew.
DOWN_SECONDS = 30.0
SECRET = "s3cr3t-of-the-laboratory-0815"


@pytest.fixture
def proxy(s3: EmbeddedS3) -> Iterator[S3Proxy]:
    with S3Proxy(s3.endpoint) as one:
        yield one


class Lab:
    """A worker that stores on disk and, through the proxy, in S3."""

    def __init__(self, broker: EmbeddedBroker, s3: EmbeddedS3, proxy: S3Proxy, folder: Path, topic: str) -> None:
        self.broker, self.topic, self.folder = broker, topic, folder
        self.settings = s3_settings(s3)
        make_topics(broker.bootstrap, topic)
        one = self.settings
        self.worker = Worker(
            broker.bootstrap,
            topic,
            folder,
            worker__stall_after=8,
            s3__main__endpoint=proxy.endpoint,
            s3__main__bucket=one.bucket,
            s3__main__access_key_id=one.access_key_id,
            s3__main__secret_access_key=one.secret_access_key,
            s3__main__part_bytes=one.part_bytes,
        )
        self.direct = S3Store("main", one)

    def upload(self, source: Path, *args: str) -> None:
        code, text = run_cli(
            *("upload", source, "--topic", self.topic, "--broker", self.broker.bootstrap),
            *("--state", self.folder / "state", *args),
            timeout=240.0,
        )
        assert code == 0, text

    def verify(self) -> None:
        """Every byte is right in both stores, and nothing else is there."""
        env = {**self.worker.env, "OPENMSI_STREAMS__S3__MAIN__ENDPOINT": self.settings.endpoint}
        code, text = run_cli("verify", self.topic, "--deep", "--source", self.folder / "source", env=env, timeout=240.0)
        assert code == 0, text

    def unfinished(self) -> list[str]:
        found = self.direct.client.list_multipart_uploads(Bucket=self.settings.bucket).get("Uploads", [])
        return [one["UploadId"] for one in found]


@pytest.mark.timeout(400)
def test_a_worker_killed_during_an_upload_goes_on_where_it_was(
    broker: EmbeddedBroker,
    s3: EmbeddedS3,
    proxy: S3Proxy,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    size, kills = 60 * MIB, 3
    hashes = make_files(tmp_path / "source", 2, size, size, seed=3)
    lab = Lab(broker, s3, proxy, tmp_path, "kills")

    def sent() -> int:
        return proxy.count(lambda request: request.is_part)

    with lab.worker as worker:
        worker.start()
        upload = spawn_cli(
            *("upload", tmp_path / "source", "--topic", lab.topic, "--broker", broker.bootstrap),
            *("--bandwidth", "8MB/s", "--state", tmp_path / "state"),
        )
        with upload:
            for number in range(kills):
                goal = 2 * (number + 1)
                wait_until(lambda: sent() >= goal, 120.0, f"{goal} parts are sent", lambda: worker.text[-4000:])  # noqa: B023
                worker.kill9()
                worker.start(wait=False)
            assert upload.wait(240) == 0, upload.text
        wait_delivered(broker.bootstrap, lab.topic, hashes, 120, worker)
        needed = -(-size // (5 * MIB))
        again = sent() - needed
        print(f"{needed} parts, {again} sent again in {kills} kills")
        record_property("parts_sent_again", again)
        assert again <= kills * lab.settings.parallel
        lab.verify()
        assert lab.unfinished() == []
        assert worker.stop() == 0


@pytest.mark.timeout(400)
def test_a_failing_server_and_one_that_is_down_get_every_file(
    broker: EmbeddedBroker, s3: EmbeddedS3, proxy: S3Proxy, tmp_path: Path
) -> None:
    hashes = make_files(tmp_path / "source", 40, 12 * MIB, 20 * MIB, seed=4)
    lab = Lab(broker, s3, proxy, tmp_path, "failing")
    with lab.worker as worker:
        worker.start()
        proxy.fail_rate = 0.2
        lab.upload(tmp_path / "source")
        proxy.down = True
        up_at = time.monotonic() + DOWN_SECONDS
        late = tmp_path / "source" / "late.dat"
        late.write_bytes(b"late" * 1000)
        hashes["late.dat"] = sha512_of(late)
        lab.upload(tmp_path / "source")
        wait_until(
            lambda: any(
                one["state"] == "delivering" and one["message"] for one in worker.get("/api/v1/files")["items"]
            ),
            120.0,
            "the reason and the file that waits are shown",
            lambda: worker.get("/api/v1/files")["items"][:2],
        )
        time.sleep(max(0.0, up_at - time.monotonic()))
        proxy.down = False
        up = time.monotonic()
        wait_delivered(broker.bootstrap, lab.topic, hashes, 180, worker)
        print(
            f"{len(hashes)} files, {proxy.failed} of {len(proxy.seen)} calls failed, all delivered "
            f"{time.monotonic() - up:.1f} s after the server was down for {DOWN_SECONDS:g} s"
        )
        proxy.fail_rate = 0.0
        lab.verify()
        assert worker.stop() == 0


@pytest.mark.timeout(400)
def test_no_secret_is_in_logs_views_rows_topics_or_objects(
    broker: EmbeddedBroker, s3: EmbeddedS3, proxy: S3Proxy, tmp_path: Path
) -> None:
    """With wrong credentials first, so that there is something to say about them."""
    lab = Lab(broker, s3, proxy, tmp_path, "secrets")
    right = lab.settings.secret_access_key
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.dat").write_bytes(b"data" * 500)
    digest = hashlib.sha512(b"data" * 500).hexdigest()
    pages = ("/", "/files/", "/api/v1/overview", "/api/v1/files", "/metrics", "/health/ready", "/health/live")
    texts: dict[str, str] = {}

    def look(when: str) -> None:
        for page in pages:
            try:
                with urllib.request.urlopen(lab.worker.url.rstrip("/") + page, timeout=20) as answer:
                    texts[f"{when} {page}"] = answer.read().decode("utf-8", "replace")
            except urllib.error.HTTPError as error:
                texts[f"{when} {page}"] = error.read().decode("utf-8", "replace")

    with lab.worker as worker:
        # The worker looks at its stores at start, so the wrong secret comes as a server that refuses it later.
        worker.start()
        proxy.answer = lambda request: (403, "SignatureDoesNotMatch")
        lab.upload(tmp_path / "source")
        wait_until(
            lambda: "credentials" in str(worker.get("/api/v1/files")["items"]),
            60.0,
            "the reason is shown",
            lambda: worker.text[-3000:],
        )
        look("refused")
        proxy.answer = None
        wait_delivered(broker.bootstrap, lab.topic, {"a.dat": digest}, 120, worker)
        look("delivered")
        assert worker.stop() == 0
        texts["log"] = worker.text
    topics = [name for name in _topics(broker) if lab.topic in name]
    assert len(topics) > 3
    for name in topics:
        texts[name] = "\n".join(f"{m.key()!r} {m.value()!r} {m.headers()!r}" for m in read_all(broker.bootstrap, name))
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            texts[str(path)] = path.read_bytes().decode("utf-8", "replace")
    # A server that refuses the worker's own secret at its start, and a command that uses it.
    env = {**worker.env, "OPENMSI_STREAMS__S3__MAIN__SECRET_ACCESS_KEY": SECRET}
    code, texts["verify"] = run_cli("verify", lab.topic, env=env)
    assert code == 1 and "credentials" in texts["verify"]
    for where, text in texts.items():
        for secret in (right, SECRET):
            assert secret not in text, where
    assert any("credentials" in text for where, text in texts.items() if where.startswith("refused"))


def _topics(broker: EmbeddedBroker) -> list[str]:
    from confluent_kafka.admin import AdminClient

    return list(AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=30).topics)


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_parts_go_up_while_a_large_file_arrives_in_little_memory(
    broker: EmbeddedBroker,
    s3: EmbeddedS3,
    proxy: S3Proxy,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    # OPENMSI_TEST_LARGE_MIB=4096 gives the figures of a large file; it needs five times that on the disk.
    size = int(os.environ.get("OPENMSI_TEST_LARGE_MIB", "300")) * MIB
    hashes = make_files(tmp_path / "source", 2, size, size, seed=6)
    lab = Lab(broker, s3, proxy, tmp_path, "large")
    with lab.worker as worker:
        worker.start()
        upload = spawn_cli(
            *("upload", tmp_path / "source", "--topic", lab.topic, "--broker", broker.bootstrap),
            *("--bandwidth", "25MB/s", "--state", tmp_path / "state"),
        )
        with upload:
            assert upload.wait(400) == 0, upload.text
        # All is in the log now: what is not in S3 yet could not be sent while the file arrived.
        during = proxy.count(lambda request: request.is_part)
        sent = time.monotonic()
        wait_delivered(broker.bootstrap, lab.topic, hashes, 200, worker)
        after = time.monotonic() - sent
        parts = Plan(5 * MIB).count(size)
        assert worker.program is not None
        status = Path(f"/proc/{worker.program.pid}/status").read_text()
        peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
        print(
            f"{during} of {parts} parts up before the sender had ended, delivered {after:.1f} s later, "
            f"RSS {peak:.0f} MiB"
        )
        record_property("peak_rss_mib", peak)
        assert during > parts // 4
        lab.verify()
        assert worker.stop() == 0
