"""The verbs, the same on each system, and what they share."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from openmsi_streams.errors import ServiceError
from openmsi_streams.services import spec as specs
from openmsi_streams.services.calls import Run, run
from openmsi_streams.services.spec import Spec


@dataclass(frozen=True, slots=True)
class State:
    """How a service is."""

    running: bool
    word: str
    """The system's own word, e.g. ``active (running)``."""
    pid: int = 0
    starts_by_itself: bool = False

    def line(self, name: str) -> str:
        """Return one line for people."""
        pid = f", process {self.pid}" if self.pid else ""
        boot = "starts with the machine" if self.starts_by_itself else "does not start by itself"
        return f"{name}: {self.word}{pid}; {boot}"


class Manager(ABC):
    """Installs and controls services of one system."""

    def __init__(self, *, system: bool, root: Path | None = None, call: Run = run) -> None:
        """Take where to work.

        Args:
            system: services of the machine, not of the person.
            root: folder that stands for ``/`` (for images and tests).
            call: runs the system's programs.
        """
        self.system = system
        self.root = root
        self.call = call

    def under_root(self, path: Path) -> Path:
        """Return a path below the root that stands for the system's."""
        return path if self.root is None else self.root / path.relative_to(path.anchor)

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where the services' own files are kept."""

    @abstractmethod
    def files(self, spec: Spec) -> dict[Path, str]:
        """Return the files of a service that all may read, with their text."""

    @abstractmethod
    def register(self, spec: Spec) -> None:
        """Make the service known to the system and let it start with the machine."""

    @abstractmethod
    def unregister(self, spec: Spec) -> None:
        """Take it out of the system again."""

    @abstractmethod
    def start(self, spec: Spec) -> None:
        """Start it; nothing happens if it runs."""

    @abstractmethod
    def stop(self, spec: Spec) -> None:
        """Stop it and wait until it has; nothing happens if it does not run."""

    @abstractmethod
    def state(self, spec: Spec) -> State:
        """Return how it is."""

    def private(self, spec: Spec) -> dict[Path, str]:
        """Return further files of a service that only its owner may read."""
        return {}

    def record(self, name: str) -> Path:
        """Return the file that a service is kept in."""
        return self.folder / f"{name}.json"

    def find(self, name: str) -> Spec:
        """Return an installed service. Raises ServiceError if there is none."""
        return specs.read(self.record(name))

    def install(self, spec: Spec) -> None:
        """Install a service; it is not started. Nothing is left behind if that fails.

        Raises:
            ServiceError: it is there already, or a right is missing.
        """
        if self.record(spec.name).exists() or any(path.exists() for path in self.files(spec)):
            raise ServiceError(
                f"There is a service {spec.name!r} already. Change it with `service reinstall {spec.name} -- ...`, or "
                f"take it away with `service remove {spec.name}`."
            )
        try:
            self._write(spec)
            self.register(spec)
        except ServiceError:
            self._delete(spec)
            raise

    def _write(self, spec: Spec) -> None:
        for path, text in self.files(spec).items():
            specs.write_open(path, text)
        for path, text in self.private(spec).items():
            specs.write_private(path, text)
        spec.save(self.record(spec.name))

    def _delete(self, spec: Spec) -> None:
        for path in (*self.files(spec), *self.private(spec), self.record(spec.name)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise specs.no_right(path, error) from None

    def remove(self, name: str) -> None:
        """Stop a service and remove all of its files. Raises ServiceError."""
        spec = self.find(name)
        with contextlib.suppress(ServiceError):
            self.stop(spec)
        self.unregister(spec)
        self._delete(spec)

    def reinstall(self, name: str, change: Callable[[Spec], Spec] = lambda spec: spec) -> bool:
        """Write a service's files anew, also with another command, and start it again if it ran.

        Returns:
            Whether it runs now.

        Raises:
            ServiceError: there is none, or a right is missing.
        """
        old = self.find(name)
        ran = self.state(old).running
        if ran:
            self.stop(old)
        self.unregister(old)
        self._delete(old)
        new = change(old)
        self.install(new)
        if ran:
            self.start(new)
        return ran


def manager(*, system: bool, root: Path | None = None, platform: str = sys.platform, wrapper: str = "") -> Manager:
    """Return the manager of this system.

    Raises:
        ServiceError: a system that has none.
    """
    if platform == "win32":
        from openmsi_streams.services.windows import windows_manager

        return windows_manager(root=root, wrapper=wrapper)
    if platform == "darwin":
        from openmsi_streams.services.launchd import Launchd

        return Launchd(system=system, root=root)
    if platform.startswith("linux"):
        from openmsi_streams.services.systemd import Systemd

        return Systemd(system=system, root=root)
    raise ServiceError(f"No service manager is known for {platform}. Run the command under one of its own.")
