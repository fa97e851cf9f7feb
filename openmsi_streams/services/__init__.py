"""A command as a service of the operating system: systemd, Windows, launchd; the same verbs everywhere."""

from openmsi_streams.services.manage import Manager, State, manager
from openmsi_streams.services.spec import Spec

__all__ = ["Manager", "Spec", "State", "manager"]
