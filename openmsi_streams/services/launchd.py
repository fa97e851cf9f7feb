"""Services of macOS: launch agents of a person and daemons of the machine.

Not run on a Mac by this project's tests; the property lists and calls are compared with recorded expectations.
"""

from __future__ import annotations

import os
import plistlib
import sys
from pathlib import Path
from typing import Any

from openmsi_streams.services.calls import must
from openmsi_streams.services.manage import Manager, State
from openmsi_streams.services.spec import Spec
from openmsi_streams.services.systemd import RESTART_SECONDS, STOP_SECONDS


class Launchd(Manager):
    """Writes property lists and speaks to `launchctl`."""

    @property
    def folder(self) -> Path:
        """Where specs are kept."""
        home = Path("/Library/Application Support") if self.system else Path.home() / "Library/Application Support"
        return self.under_root(home / "openmsi-streams/services")

    def plist_path(self, spec: Spec) -> Path:
        """Return the property list's file."""
        home = Path("/Library/LaunchDaemons") if self.system else Path.home() / "Library/LaunchAgents"
        return self.under_root(home / f"{label(spec)}.plist")

    @property
    def domain(self) -> str:
        """The domain that services are loaded into."""
        return "system" if self.system else f"gui/{os.getuid()}"

    def files(self, spec: Spec) -> dict[Path, str]:
        """The property list; the environment stays in the spec, which only its owner reads."""
        return {self.plist_path(spec): plist(spec, self.record(spec.name), self.folder / f"{spec.name}.log")}

    def register(self, spec: Spec) -> None:
        """Nothing: a list in the right folder is loaded at the next login or start."""

    def unregister(self, spec: Spec) -> None:
        """Unload it if it is loaded."""
        self.call(("launchctl", "bootout", f"{self.domain}/{label(spec)}"))

    def start(self, spec: Spec) -> None:
        """Load it, which starts it; if it is loaded, only start it."""
        if self.call(("launchctl", "print", f"{self.domain}/{label(spec)}")).code:
            must(self.call, "launchctl", "bootstrap", self.domain, str(self.plist_path(spec)))
        else:
            must(self.call, "launchctl", "kickstart", f"{self.domain}/{label(spec)}")

    def stop(self, spec: Spec) -> None:
        """Unload it, or launchd would start it again."""
        if self.call(("launchctl", "print", f"{self.domain}/{label(spec)}")).code == 0:
            must(self.call, "launchctl", "bootout", f"{self.domain}/{label(spec)}")

    def state(self, spec: Spec) -> State:
        """Ask for its state."""
        answer = self.call(("launchctl", "print", f"{self.domain}/{label(spec)}"))
        told = dict(line.strip().partition(" = ")[::2] for line in answer.text.splitlines() if " = " in line)
        pid = told.get("pid", "0")
        word = told.get("state", "not loaded") if answer.code == 0 else "not loaded"
        return State(word == "running", word, int(pid) if pid.isdigit() else 0, self.plist_path(spec).exists())


def label(spec: Spec) -> str:
    """Return launchd's name of a service."""
    return f"org.openmsi.streams.{spec.name}"


def plist(spec: Spec, record: Path, log: Path) -> str:
    """Return the text of a property list; arguments are a list there, so nothing is quoted."""
    content: dict[str, Any] = {
        "Label": label(spec),
        "ProgramArguments": [sys.executable, "-m", "openmsi_streams.services.run", "--spec", str(record)],
        "WorkingDirectory": spec.workdir,
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": RESTART_SECONDS,
        "ExitTimeOut": STOP_SECONDS,
        "ProcessType": "Background",
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
        "Umask": 0o027,
    }
    if spec.run_as:
        content["UserName"] = spec.run_as
    return plistlib.dumps(content).decode()
