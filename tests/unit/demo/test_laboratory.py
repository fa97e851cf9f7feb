"""The demo's laboratory writes what real instruments would, and its proof finds what is not equal."""

from __future__ import annotations

import io
import math
import threading
from hashlib import sha512
from pathlib import Path

from rich.console import Console

from openmsi_streams.chunks.paths import relative_path
from openmsi_streams.demo.display import Display, size
from openmsi_streams.demo.laboratory import (
    AL_LATTICE,
    CU_K_ALPHA,
    MIB,
    Written,
    diffraction,
    laboratory,
    noise,
    run,
    shots,
)
from openmsi_streams.demo.results import Result, Row, as_data, check, hash_disk, local_path, newest
from tests.support.files import tree


class Body:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def iter_chunks(self, size: int) -> list[bytes]:
        return [self.data]


class Bucket:
    """The part of boto3's client that the proof uses."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Body]:
        from botocore.exceptions import ClientError

        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"Body": Body(self.objects[Key])}


def test_the_laboratory_writes_what_it_says_it_wrote(tmp_path: Path) -> None:
    """Twelve files or more, nested, an empty one, one with spaces and accents, all with safe names."""
    (tmp_path / "prepared").mkdir()
    instruments = laboratory(tmp_path / "prepared", camera_bytes=3 * MIB)
    for instrument in instruments:
        instrument.pause = 0.0
        for specimen in instrument.files:
            specimen.pause = 0.0
    threads, written = run(instruments, tmp_path / "lab", threading.Event())
    for thread in threads:
        thread.join(60)
    assert len(written) >= 12
    assert tree(tmp_path / "lab") == {file.path: file.sha512 for file in written}
    assert {file.bytes for file in written} >= {0, 3 * MIB}
    assert any(" " in file.path and not file.path.isascii() for file in written)
    for file in written:
        folder, _, name = file.path.rpartition("/")
        assert relative_path(name, folder) == file.path
    # With its recording of 200 MiB it is more than 220 MB.
    assert sum(file.bytes for file in written) + 197 * MIB >= 220_000_000


def test_an_instrument_that_is_stopped_reports_no_unfinished_file(tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    stop = threading.Event()
    stop.set()
    threads, written = run(laboratory(tmp_path / "prepared", camera_bytes=MIB), tmp_path / "lab", stop)
    for thread in threads:
        thread.join(60)
    # A file without any content has no moment at which it could be stopped.
    assert all(file.bytes == 0 for file in written)


def test_the_shots_are_records_that_the_readers_read(tmp_path: Path) -> None:
    made = shots(tmp_path)
    assert {Path(specimen.path).suffix for specimen in made} == {".trc", ".txt"}
    for specimen in made:
        assert (tmp_path / Path(specimen.path).name).read_bytes() == b"".join(specimen.pieces())


def test_the_powder_pattern_has_aluminiums_strongest_line_where_bragg_says() -> None:
    rows = [line.split(",") for line in diffraction(1).decode().splitlines()[1:]]
    angle = float(max(rows, key=lambda row: int(row[1]))[0])
    expected = 2 * math.degrees(math.asin(CU_K_ALPHA * math.sqrt(3) / (2 * AL_LATTICE)))
    assert abs(angle - expected) < 0.1


def test_a_recording_has_exactly_its_size_and_differs_from_piece_to_piece() -> None:
    pieces = list(noise(2 * MIB + 5, 1, MIB)())
    assert [len(piece) for piece in pieces] == [MIB, MIB, 5]
    assert pieces[0] != pieces[1]


def checked(tmp_path: Path, disk: bytes | None, s3: bytes | None, row: Row | None = None) -> Result:
    data = b"as written"
    file = Written("a/b c.dat", len(data), sha512(data).hexdigest(), 100.0)
    if disk is not None:
        (tmp_path / "lab" / "a").mkdir(parents=True)
        (tmp_path / "lab" / "a" / "b c.dat").write_bytes(disk)
    objects = {} if s3 is None else {"lab/a/b!20c.dat": s3}
    return check(file, row, 4, Bucket(objects), "lab", "bucket", tmp_path)


def test_a_file_is_equal_only_if_both_stores_give_back_what_was_written(tmp_path: Path) -> None:
    good = checked(tmp_path / "1", b"as written", b"as written")
    assert good.equal and good.s3_url == "s3://bucket/lab/a/b!20c.dat" and good.chunks == 3
    assert not checked(tmp_path / "2", b"as written", None).equal
    assert not checked(tmp_path / "3", None, b"as written").equal
    assert not checked(tmp_path / "4", b"as Written", b"as written").equal
    assert not checked(tmp_path / "5", b"as written", b"as written!").equal
    data = as_data([good, checked(tmp_path / "6", None, None)], 4.2, 12.0)
    assert data["totals"] == {"files": 2, "bytes": 20, "mismatches": 1, "worker_ready_s": 4.2, "seconds": 12.0}
    assert {"path", "bytes", "sha512", "disk_path", "s3_url", "seconds"} <= set(data["files"][0])


def a_row(digest: str, state: str = "delivered", delivered: float = 102.5) -> Row:
    return Row("a/b c.dat", digest, 10, 10, state, "", {}, delivered)


def test_seconds_count_from_the_last_byte_to_the_last_stores_word(tmp_path: Path) -> None:
    digest = sha512(b"as written").hexdigest()
    assert checked(tmp_path / "1", b"as written", b"as written", a_row(digest)).seconds == 2.5
    older = checked(tmp_path / "2", b"as written", b"as written", a_row("ab"))
    assert older.seconds is None and older.state == "an older version"


def test_the_version_that_was_written_counts_whatever_the_order() -> None:
    file = Written("a/b c.dat", 10, "new", 0.0)
    for order in ([a_row("new"), a_row("old")], [a_row("old"), a_row("new")]):
        assert newest(order, [file])["a/b c.dat"].sha512 == "new"


def test_urls_of_the_disk_store_are_read_as_paths(tmp_path: Path) -> None:
    path = tmp_path / "2θ scan #1 100%.csv"
    path.write_bytes(b"x")
    assert local_path(path.as_uri()) == path == local_path(str(path))
    assert hash_disk(path) == sha512(b"x").hexdigest() and hash_disk(tmp_path / "none") == ""


def test_the_display_shows_every_file_in_a_terminal_and_tells_each_once_elsewhere() -> None:
    good = Result("a/[b].dat", 10, "x", 1, "/d", "s3://b", "x", "x", 0.5, "delivered")
    bad = Result("c.dat", 10, "x", 1, state="quarantined")
    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
        with Display(console, 4) as display:
            for _ in range(3):
                display.update({"a/[b].dat": a_row("x")}, {"a/[b].dat": 10, "still.dat": 3})
            display.final([good, bad])
        text = out.getvalue()
        assert "a/[b].dat" in text and "NOT EQUAL" in text and "disk and S3" in text
        assert terminal or text.count("delivered") == 1


def test_sizes_are_for_people() -> None:
    assert [size(n) for n in (0, 999, 1000, 12_345, 999_999, 209_715_200, 4e9)] == [
        "0 B", "999 B", "1.0 kB", "12.3 kB", "1.0 MB", "210 MB", "4.0 GB"
    ]  # fmt: skip
