"""What belongs where, as receipts say, and what is a result beside a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from openmsi_streams.chunks.messages import Delivery, Receipt
from openmsi_streams.config.settings import DiskSettings
from openmsi_streams.storage import DiskStore, compare
from openmsi_streams.storage.base import is_derived
from openmsi_streams.storage.receipts import held
from tests.support.stores import verified


def receipt(path: str, sha512: str, *deliveries: Delivery) -> Receipt:
    return Receipt(
        file_id=sha512, topic="scans", path=path, sha512=sha512, bytes=3, state="delivered", deliveries=deliveries
    )


def delivery(store: str, time: float, note: str = "") -> Delivery:
    return Delivery(kind="disk", store=store, url="", sha512="", bytes=3, time=time, note=note)


def test_the_version_that_was_put_last_has_the_name_in_each_store() -> None:
    old = receipt("a", "old", delivery("disk", 1.0), delivery("cloud", 9.0))
    new = receipt("a", "new", delivery("disk", 2.0), delivery("cloud", 3.0))
    late = receipt("a", "late", delivery("disk", 4.0, "superseded"), delivery("cloud", 10.0, "superseded"))
    for order in ([old, new, late], [late, new, old]):
        found = held(order)
        assert {place: one.receipt.sha512 for place, one in found.items()} == {
            ("disk", "scans", "a"): "new",
            ("cloud", "scans", "a"): "old",
        }


@pytest.mark.parametrize(
    ("name", "original", "expected"),
    [
        ("scan.dat.gemd.json", "scan.dat", True),
        ("shot-1.pdv.json", "shot-1.trc", True),
        ("pdv_spall_plots_shot-1.png", "shot-1.trc", True),
        ("scan.dat", "scan.dat", False),
        ("scan_copy.dat", "scan.dat", False),
        ("scan.dat~", "scan.dat", False),
        ("pdv_spall_plots_other.png", "shot-1.trc", False),
    ],
)
def test_results_have_the_names_of_their_files(name: str, original: str, expected: bool) -> None:
    assert is_derived(name, original) == expected


def test_a_result_with_a_name_of_its_own_is_no_stray_on_disk(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "root", DiskSettings(free_floor=0))
    file = verified(store.root / ".partial", "s/a.dat", 10)
    proof = store.put(file)
    store.put_beside(file, "summary.csv", b"1,2", "text/csv")
    (store.root / "scans/s/stray.csv").write_text("stray")
    said = Receipt(
        file_id=file.file_id, topic="scans", path="s/a.dat", sha512=file.sha512, bytes=10, state="delivered",
        deliveries=(proof,),
    )  # fmt: skip
    findings = list(compare.check_stores([store], [said], "scans", deep=True))
    assert [(one.status, one.path) for one in findings] == [("equal", "s/a.dat"), ("extra", "s/stray.csv")]
