"""Faust's table manager without its second of waiting."""

from __future__ import annotations

from faust.tables import TableManager


class PromptManager(TableManager):
    """Registers the tables at once.

    Stock Faust sleeps a second first, for tables that agents declare while they start. Ours are declared when the app
    is built, and the group is joined only after this, so each start and each restart was a second longer.
    """

    async def on_start(self) -> None:
        """Make the changelogs known to the consumer and start their recovery."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()
