"""What a thousand instruments and fifty workers ask of the group: Faust's own assignor, run for real, without a broker.

    python bench/scale.py [--workers 50] [--json FILE]

For several numbers of chunk topics and partitions, fifty workers join a group one round after the other until the
assignment is steady; then one leaves and comes back. Printed: the time that the leader computes, how many partitions
move, the largest message that one worker sends when it joins, and the size of the record that Kafka keeps of the whole
group in `__consumer_offsets`. Kafka refuses a record above the broker's `message.max.bytes` (1 MiB), and then no worker
can join any more: that is what breaks first, and what the number of topics per application must be chosen by.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faust
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor

from openmsi_streams.chunks.topics import beside, table_names
from openmsi_streams.tables.assignor import LeanAssignor

LIMIT = 1 << 20


class Cluster:
    """What the assignor asks of the cluster's metadata."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int]:
        """Return a topic's partitions."""
        return set(range(self.partitions))


class Member:
    """What an assignor sees of a member."""

    def __init__(self, subscription: list[str], user_data: bytes) -> None:
        self.subscription, self.user_data = subscription, user_data


def subscription(app: Any, topics: int) -> list[str]:
    """Return the topics that a worker of so many chunk topics is subscribed to."""
    found = []
    for number in range(topics):
        topic = f"lab-instruments-{number:02d}"
        found += [topic, beside(topic, "home"), beside(topic, "delivered")]
        found += [f"{app.conf.id}-{name}-changelog" for name in table_names(topic)]
    return found


def measure(workers: int, topics: int, partitions: int, faust_own: bool) -> dict[str, Any]:
    """Return times and sizes for one shape."""
    app = faust.App("openmsi-streams", store="memory://", autodiscover=False)
    for number in range(topics):
        for name in table_names(f"lab-instruments-{number:02d}"):
            app.Table(name, partitions=partitions)
    names = subscription(app, topics)
    app.tables._changelogs = {name: None for name in names if name.endswith("changelog")}
    assignor = PartitionAssignor(app) if faust_own else LeanAssignor(app)
    members = [f"openmsi-streams-{number:02d}-{'0' * 36}" for number in range(workers)]
    state = {
        member: ClientMetadata(ClientAssignment({}, {}), f"http://worker-{i:02d}.lab.example:6066", {})
        for i, member in enumerate(members)
    }

    def join_message(member: str) -> bytes:
        known = state[member]
        others = (known.changelog_distribution, known.external_topic_distribution) if faust_own else ({}, {})
        return ClientMetadata(known.assignment, known.url, *others, topic_groups=known.topic_groups).dumps()

    def one_round(taking: list[str]) -> tuple[float, int]:
        joined = {member: Member(names, join_message(member)) for member in taking}
        began = time.perf_counter()
        answers = assignor.assign(Cluster(partitions), joined)
        seconds = time.perf_counter() - began
        # As Kafka writes the group down: each member's join message and what it was given.
        record = sum(len(joined[m].user_data) + sum(map(len, names)) for m in taking)
        record += sum(len(a.user_data) + sum(len(t) + 4 * len(p) for t, p in a.assignment) for a in answers.values())
        for member, answer in answers.items():
            state[member] = ClientMetadata.loads(assignor._decompress(answer.user_data))
        return seconds, record

    def owners() -> dict[tuple[str, int], str]:
        return {
            (topic, p): member
            for member, metadata in state.items()
            for topic, ps in metadata.assignment.actives.items()
            for p in ps
        }

    one_round(members)
    seconds, record = one_round(members)
    steady = owners()
    join = max(len(join_message(member)) for member in members)
    gone = state[members[0]]
    of_gone = sum(len(ps) for ps in gone.assignment.actives.values())
    state.pop(members[0])
    one_round(members[1:])
    moved = sum(1 for place, member in owners().items() if steady[place] not in (member, members[0]))
    return {
        "workers": workers,
        "topics": topics,
        "partitions": partitions,
        "assignor": "Faust's" if faust_own else "ours",
        "assign_s": round(seconds, 3),
        "join_bytes": join,
        "group_record_bytes": record,
        "of_leaver": of_gone,
        "moved_beyond": moved,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = []
    print(f"{'assignor':8} {'workers':>7} {'topics':>6} {'partitions':>10} {'assign s':>9} {'join kB':>8} "
          f"{'group record kB':>16} {'of a leaver':>12} {'moved beyond':>13}")  # fmt: skip
    many = chosen.workers
    shapes = [(3, 1, 12), (10, 1, 24), (many, 1, 100), (many, 1, 200), (many, 5, 100), (many, 20, 100), (10, 20, 24)]
    for workers, topics, partitions in shapes:
        for faust_own in (True, False):
            row = measure(workers, topics, partitions, faust_own)
            rows.append(row)
            over = "  > 1 MiB" if row["group_record_bytes"] > LIMIT else ""
            print(
                f"{row['assignor']:8} {workers:7d} {topics:6d} {partitions:10d} {row['assign_s']:9.2f} "
                f"{row['join_bytes'] / 1e3:8.1f} {row['group_record_bytes'] / 1e3:16.0f} {row['of_leaver']:12d} "
                f"{row['moved_beyond']:13d}{over}",
                flush=True,
            )
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
