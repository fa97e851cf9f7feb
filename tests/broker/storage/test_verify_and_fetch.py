"""`verify` finds each kind of difference and is silent on a clean tree; `fetch` gives files back, verified."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from openmsi_streams.chunks.messages import Delivery, Receipt, to_json
from openmsi_streams.config.settings import DiskSettings
from openmsi_streams.embedded import EmbeddedBroker, EmbeddedS3
from openmsi_streams.errors import OpenMSIStreamsError, TopicError, UsageError
from openmsi_streams.storage import DiskStore, Verified
from openmsi_streams.storage.commands import fetch, verify
from openmsi_streams.storage.s3 import S3Store
from tests.support.kafka import make_topics, produce
from tests.support.programs import run_cli
from tests.support.stores import new_topic, s3_settings, verified

pytestmark = pytest.mark.broker


class Delivered:
    """A topic whose files are on disk and in S3, with their receipts on the broker."""

    def __init__(self, broker: EmbeddedBroker, s3: EmbeddedS3, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        self.topic = new_topic()
        self.settings = s3_settings(s3)
        self.root = folder / "store"
        self.disk = DiskStore(self.root, DiskSettings(free_floor=0))
        self.s3 = S3Store("cloud", self.settings)
        self.source = folder / "source"
        self.files: dict[str, Verified] = {}
        self.config = folder / "openmsi-streams.toml"
        s = self.settings
        self.config.write_text(
            f'[broker]\nbootstrap = "{broker.bootstrap}"\n[worker]\ntopics = ["{self.topic}"]\n'
            f'[disk]\nroot = "{self.root}"\n[s3.cloud]\nendpoint = "{s.endpoint}"\nbucket = "{s.bucket}"\n'
            f'access_key_id = "{s.access_key_id}"\nsecret_access_key = "{s.secret_access_key}"\n'
        )
        self.untold: list[tuple[bytes | None, bytes | None]] = []
        make_topics(broker.bootstrap, self.topic)

    def publish(self) -> None:
        """Send the receipts of what was delivered since the last time, together: each producer takes its time."""
        if self.untold:
            produce(self.broker.bootstrap, f"{self.topic}.receipts", self.untold)
            self.untold = []

    def deliver(self, relative: str, data: bytes | int) -> Verified:
        file = verified(self.root / ".partial", relative, data, self.topic)
        content = file.path.read_bytes()
        (self.source / relative).parent.mkdir(parents=True, exist_ok=True)
        (self.source / relative).write_bytes(content)
        self.tell(file, self.s3.put(file), self.disk.put(file))
        self.disk.put_beside(file, relative.rpartition("/")[2] + ".gemd.json", b"{}", "application/json")
        self.s3.put_beside(file, "pdv_spall_plots_x.png", b"png", "image/png")
        self.files[relative] = file
        return file

    def tell(self, file: Verified, *deliveries: Delivery, **more: Any) -> None:
        receipt = Receipt(
            file_id=file.file_id,
            topic=self.topic,
            path=file.relative,
            sha512=file.sha512,
            bytes=file.size,
            state=more.pop("state", "delivered"),
            deliveries=deliveries,
            time=time.time(),
            **more,
        )
        self.untold.append((file.file_id.encode(), to_json(receipt)))

    def verify(self, *args: str | Path) -> tuple[int, dict[tuple[str, str], tuple[str, str]]]:
        """Run ``verify --json`` and return its exit code and {(where, path): (status, why)} of the differences."""
        self.publish()
        result = run(verify, self.topic, "--config", self.config, "--json", *args)
        answer = json.loads(result.output)
        assert answer["ok"] == (result.exit_code == 0)
        return result.exit_code, {
            (one["where"], one["path"]): (one["status"], one["why"]) for one in answer["findings"]
        }


def run(command: Any, *args: str | Path) -> Any:
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def delivered(broker: EmbeddedBroker, s3: EmbeddedS3, tmp_path: Path) -> Iterator[Delivered]:
    one = Delivered(broker, s3, tmp_path)
    one.deliver("a.dat", 1000)
    one.deliver("run 07/é.dat", 2000)
    one.deliver("run 07/empty", b"")
    one.publish()
    yield one
    one.s3.close()


def test_a_clean_tree_is_silent(delivered: Delivered) -> None:
    assert delivered.verify() == (0, {})
    assert delivered.verify("--deep", "--source", delivered.source) == (0, {})
    text = run(verify, delivered.topic, "--config", delivered.config).output
    assert text == "6 equal, 0 missing, 0 different, 0 extra (sizes and metadata; --deep hashes every byte)\n"
    assert run(verify, delivered.topic, "--config", delivered.config, "--all").output.count("equal") == 7


def test_a_topic_without_receipts_proves_nothing_and_says_so(delivered: Delivered) -> None:
    other = new_topic()
    make_topics(delivered.broker.bootstrap, other)
    result = run(verify, other, "--config", delivered.config)
    assert f"no receipts on {other}.receipts" in result.stderr and delivered.broker.bootstrap in result.stderr
    assert result.stdout.startswith("0 equal") and result.exit_code == 0


def test_a_deleted_object_is_missing(delivered: Delivered) -> None:
    delivered.s3.remove(delivered.topic, "a.dat")
    assert delivered.verify() == (1, {("cloud", "a.dat"): ("missing", "missing")})


def test_an_object_changed_by_one_byte_is_found_by_deep(delivered: Delivered) -> None:
    file = delivered.files["a.dat"]
    data = bytearray((delivered.source / "a.dat").read_bytes())
    data[-1] ^= 1
    delivered.s3.client.put_object(
        Bucket=delivered.settings.bucket,
        Key=delivered.s3.keys.key(delivered.topic, "a.dat"),
        Body=bytes(data),
        Metadata={"sha512": file.sha512},
    )
    assert delivered.verify() == (0, {})
    assert delivered.verify("--deep") == (1, {("cloud", "a.dat"): ("different", "has other bytes (sha512)")})


def test_a_file_missing_or_changed_on_disk_is_found(delivered: Delivered) -> None:
    (delivered.root / delivered.topic / "a.dat").unlink()
    (delivered.root / delivered.topic / "run 07/é.dat").write_bytes(b"x" * 2000)
    assert delivered.verify() == (1, {("disk", "a.dat"): ("missing", "missing")})
    assert delivered.verify("--deep", "--store", "disk") == (
        1,
        {
            ("disk", "a.dat"): ("missing", "missing"),
            ("disk", "run 07/é.dat"): ("different", "has other bytes (sha512)"),
        },
    )
    assert delivered.verify("--store", "cloud") == (0, {})


def test_what_no_receipt_names_is_extra(delivered: Delivered, tmp_path: Path) -> None:
    (delivered.root / delivered.topic / "run 07/stray.txt").write_text("stray")
    delivered.s3.put(verified(tmp_path, "run 07/stray.txt", 5, delivered.topic))
    assert delivered.verify() == (
        1,
        {
            ("disk", "run 07/stray.txt"): ("extra", "no receipt names it"),
            ("cloud", "run 07/stray.txt"): ("extra", "no receipt names it"),
        },
    )


def test_versions_are_judged_by_what_was_put_last(delivered: Delivered) -> None:
    delivered.deliver("a.dat", b"a newer version")
    late = verified(delivered.root / ".partial", "a.dat", b"late", delivered.topic)
    delivered.tell(late, delivered.s3.put(late, superseded=True), delivered.disk.put(late, superseded=True))
    assert delivered.verify("--deep", "--source", delivered.source) == (0, {})


def test_a_source_folder_is_compared_with_what_was_delivered(delivered: Delivered, tmp_path: Path) -> None:
    source = delivered.source
    (source / "new.dat").write_bytes(b"never sent")
    (source / ".hidden").write_bytes(b"never to be sent")
    (source / "half.tmp").write_bytes(b"never to be sent")
    (source / "a.dat").write_bytes(b"y" * 1000)
    (source / "run 07/é.dat").unlink()
    bad = verified(tmp_path, "bad.dat", 10, delivered.topic)
    (source / "bad.dat").write_bytes(bad.path.read_bytes())
    delivered.tell(bad, state="quarantined", reason="file_hash_mismatch")
    assert delivered.verify("--source", source) == (
        1,
        {
            ("source", "new.dat"): ("missing", "not delivered"),
            ("source", "bad.dat"): ("missing", "quarantined: file_hash_mismatch"),
            ("source", "a.dat"): ("different", "has other bytes (sha512)"),
            ("source", "run 07/é.dat"): ("extra", "delivered, and not in the source (any more)"),
        },
    )


def test_a_registry_is_compared_with_what_was_delivered(delivered: Delivered, tmp_path: Path) -> None:
    registry = tmp_path / "registry.db"
    with sqlite3.connect(registry) as db:
        db.execute("CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, sha512 TEXT)")
        rows = [(file.relative, file.size, file.sha512) for file in delivered.files.values()]
        db.executemany("INSERT INTO files VALUES (?, ?, ?)", [*rows, ("b.dat", 5, "0" * 128), ("growing", 1, "")])
    db.close()
    assert delivered.verify("--registry", registry) == (1, {("source", "b.dat"): ("missing", "not delivered")})
    registry.write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(UsageError, match="not the registry"):
        delivered.verify("--registry", registry)


def test_wrong_usage_is_said(delivered: Delivered, tmp_path: Path) -> None:
    for error, args in (
        (TopicError, ("no-such-topic",)),
        (UsageError, (delivered.topic, "--store", "nobody")),
        (UsageError, (delivered.topic, "--source", tmp_path / "nowhere")),
    ):
        with pytest.raises(error):
            run(verify, "--config", delivered.config, *args)
    code, text = run_cli("verify", delivered.topic, "--config", delivered.config, "--store", "nobody")
    assert code == 2
    assert text.startswith("error: There is no store 'nobody'")
    assert "Traceback" not in text
    assert delivered.settings.secret_access_key not in text


def test_fetch_by_path_pattern_and_id(delivered: Delivered, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = delivered.files["a.dat"]
    base = (delivered.topic, "--config", delivered.config, "--to", out)
    for what in ("a.dat", "run 07/*.dat", delivered.files["run 07/empty"].file_id):
        result = run(fetch, *base, what)
        assert result.exit_code == 0, result.output
        assert "verified" in result.output
    for relative in delivered.files:
        assert (out / relative).read_bytes() == (delivered.source / relative).read_bytes()
    assert (out / "a.dat").stat().st_mtime == file.mtime
    assert "is there already" in run(fetch, *base, "a.dat").output
    (out / "a.dat").write_bytes(b"mine")
    result = run(fetch, *base, "a.dat")
    assert result.exit_code == 1
    assert (out / "a.dat").read_bytes() == b"mine"
    assert run(fetch, *base, "a.dat", "--force").exit_code == 0
    assert (out / "a.dat").stat().st_size == 1000
    for what in ("nothing.dat", "nothing*", "0" * 32):
        with pytest.raises(OpenMSIStreamsError):
            run(fetch, *base, what)


def test_fetch_does_not_write_changed_bytes(delivered: Delivered, tmp_path: Path) -> None:
    file = delivered.files["a.dat"]
    delivered.s3.client.put_object(
        Bucket=delivered.settings.bucket,
        Key=delivered.s3.keys.key(delivered.topic, "a.dat"),
        Body=b"x" * 1000,
        Metadata={"sha512": file.sha512},
    )
    result = run(fetch, delivered.topic, "a.dat", "--config", delivered.config, "--to", tmp_path / "out")
    assert result.exit_code == 1
    assert not list((tmp_path / "out").iterdir())


def test_settings_with_a_secret_from_the_environment_are_enough(delivered: Delivered, tmp_path: Path) -> None:
    text = delivered.config.read_text().replace(delivered.settings.secret_access_key, "")
    delivered.config.write_text(text)
    code, said = run_cli(
        *("fetch", delivered.topic, "a.dat", "--config", delivered.config, "--to", tmp_path / "out"),
        env={"OPENMSI_STREAMS__S3__CLOUD__SECRET_ACCESS_KEY": delivered.settings.secret_access_key},
    )
    assert code == 0, said
    assert delivered.settings.secret_access_key not in said
    assert msgspec.json.encode(delivered.files["a.dat"].sha512[:16]).decode().strip('"') in said
