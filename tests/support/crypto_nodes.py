"""Nodes of KafkaCrypto for tests: an authority, provisioned nodes, settings that use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openmsi_streams.config import Settings
from openmsi_streams.crypto import authority as authorities
from openmsi_streams.crypto import provision as provisioning
from openmsi_streams.crypto.files import NodeFiles


class Lab:
    """An authority and its nodes below one folder."""

    def __init__(self, folder: Path, bootstrap: str = "127.0.0.1:1") -> None:
        self.folder = folder
        self.bootstrap = bootstrap
        self.authority = authorities.create(folder / "authority")

    def settings(self, node: str | Path = "", topics: Sequence[str] = ()) -> Settings:
        """Return settings for a node's process."""
        made = Settings()
        made.broker.bootstrap = self.bootstrap
        made.crypto.node = str(node)
        made.worker.topics = list(topics)
        return made

    def provision(
        self,
        name: str,
        role: authorities.NodeRole = "both",
        topics: Sequence[str] = ("lab.files",),
        days: float = 365.0,
        signer: authorities.Authority | None = None,
    ) -> NodeFiles:
        """Make a node, or renew one that is there."""
        return provisioning.provision(
            signer or self.authority, name, role, topics, self.folder / name, self.settings(), days=days
        )

    def node_settings(
        self,
        name: str,
        role: authorities.NodeRole = "both",
        topics: Sequence[str] = ("lab.files",),
        days: float = 365.0,
        signer: authorities.Authority | None = None,
    ) -> Settings:
        """Make a node and return settings that use it."""
        return self.settings(self.provision(name, role, topics, days, signer).config, topics)
