"""Faust's partition assignor with short messages.

Faust's sends the whole cluster's distribution of partitions with every join and every answer, for its router of web
requests, which is off here. Kafka keeps all of them in one record for the group, which so grows with the square of the
workers: fifty workers and five topics of 100 partitions made 3.5 MB, where Kafka's limit is 1 MB; beyond it no worker
can join (`bench/scale.py`). The leader itself reads only each member's own part and address.
"""

from __future__ import annotations

from typing import Any

from faust.assignor.client_assignment import ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor


class LeanAssignor(PartitionAssignor):
    """Sends a member's own assignment and address, and nothing of the others'."""

    def _get_changelog_distribution(self, assignments: Any) -> Any:
        return {}

    def _get_external_topic_distribution(self, assignments: Any) -> Any:
        return {}

    @property
    def _metadata(self) -> Any:
        return ClientMetadata(
            assignment=self._assignment,
            url=str(self._url),
            changelog_distribution={},
            external_topic_distribution={},
            topic_groups=self._topic_groups,
        )
