"""A coroutine's first steps without a task: most of Faust's per-message coroutines never wait."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any


class Begun(Generator[Any, Any, Any]):
    """A coroutine that is run at once up to where it first waits; await the rest, unless it is `done`.

    Its first steps belong to the task that makes this object: they must not ask for the current task.

    Attributes:
        done: whether it has ended already.
        value: what it returned then.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run the coroutine. Raises what it raises before it waits."""
        self._coroutine = coroutine
        self._given = False
        self.done = False
        self.value: Any = None
        try:
            self._waits_for = coroutine.send(None)
        except StopIteration as end:
            self.done, self.value = True, end.value

    async def rest(self) -> Any:
        """Go on where it waits, and return what it returns."""
        return self.value if self.done else await self

    def __await__(self) -> Generator[Any, Any, Any]:
        return self

    def send(self, value: Any) -> Any:
        """Hand on what the first step waits for, then every other step."""
        if self._given:
            return self._coroutine.send(value)
        self._given = True
        return self._waits_for

    def throw(self, *error: Any) -> Any:
        """Raise an exception where the coroutine waits."""
        self._given = True
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """End the coroutine where it waits."""
        self._coroutine.close()
