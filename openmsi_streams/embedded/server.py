"""What the embedded servers share: a port of their own, a child process, and a wait until they really answer."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from openmsi_streams.embedded.child import Child
from openmsi_streams.embedded.ports import LOOPBACK, check_free, free_port
from openmsi_streams.errors import ServiceError

# Both start in a second or less; a loaded machine with a cold disk is given much more before we call it broken.
START_SECONDS = 60.0
# Between choosing a free port and listening on it another program may take it. Five such misfortunes are a fault.
_TRIES = 5


class EmbeddedServer:
    """Base of the embedded servers. Use as a context manager, or call `start` and `stop`."""

    what: ClassVar[str]

    def __init__(self, *, port: int | None = None) -> None:
        """Prepare a server on ``port`` of 127.0.0.1; None: a free one, chosen at start."""
        self._wanted_port = port
        self.port = port or 0
        self.child: Child | None = None

    def command(self, folder: Path) -> list[str]:
        """Return the command line for `self.port`; ``folder`` is the server's own and goes with it."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str] | None:
        """Return the server's environment; None: this process's."""
        return None

    def answers(self) -> bool:
        """Say whether our own server, not another program on the same port, answers now."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """``host:port`` that it listens on."""
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> Self:
        """Start the server and return when it answers.

        Raises:
            ServiceError: if the port is in use or the server does not come up.
        """
        for attempt in range(1, _TRIES + 1):
            self.port = check_free(self._wanted_port, self.what) if self._wanted_port else free_port()
            folder = Path(tempfile.mkdtemp(prefix="openmsi-streams-"))
            # Their memory and files are nobody's after the end, so there is nothing to wait long for.
            self.child = Child(self.command(folder), name=self.what, env=self.environment(), grace=2.0, folder=folder)
            try:
                if self._wait():
                    return self
                if self._wanted_port or attempt == _TRIES or not self._port_was_taken():
                    break
            except BaseException:
                self.stop()
                raise
            self.stop()
        said = self.child.tail() if self.child else ""
        self.stop()
        raise ServiceError(
            f"{self.what} did not start on {self.address} within {START_SECONDS:g} s. Check that its package is whole "
            f"(pip install --force-reinstall 'openmsi-streams[embedded]'). It said:\n{said}"
        )

    def _port_was_taken(self) -> bool:
        assert self.child is not None
        return self.child.poll() is not None and "in use" in self.child.text

    def _wait(self) -> bool:
        assert self.child is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                return False
            if self.answers():
                return True
            time.sleep(0.01)
        return False

    def stop(self) -> None:
        """End the server; its data go with it."""
        if self.child is not None:
            self.child.end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
