"""The group's messages stay small however many workers there are, and the assignment is Faust's own."""

from __future__ import annotations

from typing import Any

import faust
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor

from openmsi_streams.tables.assignor import LeanAssignor

TOPICS = ["lab", "lab.home", "lab.delivered", "w-files-lab-changelog"]


class Cluster:
    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(24))


class Member:
    subscription = TOPICS

    def __init__(self, user_data: bytes) -> None:
        self.user_data = user_data


def assign(kind: type[PartitionAssignor], workers: int) -> tuple[dict[str, Any], int]:
    """Return each member's partitions and the bytes of all answers, after two rounds."""
    app = faust.App("w", store="memory://", autodiscover=False)
    app.tables._changelogs = {TOPICS[3]: None}
    assignor = kind(app)
    known = {f"m{i:02d}": ClientMetadata(ClientAssignment({}, {}), f"http://w{i}:6066", {}) for i in range(workers)}
    size = 0
    for _ in range(2):
        answers = assignor.assign(Cluster(), {name: Member(one.dumps()) for name, one in known.items()})
        size = sum(len(one.user_data) for one in answers.values())
        known = {name: ClientMetadata.loads(assignor._decompress(one.user_data)) for name, one in answers.items()}
    return {name: one.assignment.actives for name, one in known.items()}, size


def test_partitions_are_those_that_faust_would_give_and_the_answers_are_shorter() -> None:
    ours, small = assign(LeanAssignor, 12)
    theirs, large = assign(PartitionAssignor, 12)
    assert ours == theirs
    assert small < large / 2
    assert sorted(p for parts in ours.values() for p in parts["lab"]) == list(range(24))


def test_a_join_message_tells_only_of_the_member_itself() -> None:
    app = faust.App("w", store="memory://", autodiscover=False)
    assignor = LeanAssignor(app)
    assignor.changelog_distribution = {"http://other:6066": {"lab": [1, 2, 3]}}
    said = assignor.metadata({"lab"}).user_data
    assert b"other" not in said
    assert ClientMetadata.loads(said).url == str(app.conf.canonical_url)
