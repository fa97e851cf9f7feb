"""Ports on the loopback address."""

from __future__ import annotations

import os
import socket

from openmsi_streams.errors import ServiceError

LOOPBACK = "127.0.0.1"


def _bind(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            # As servers do: connections of the last run that linger in TIME_WAIT do not make the port "in use".
            # On Windows the same option would let two programs share a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        return int(probe.getsockname()[1])


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now. Another program may take it before it is used."""
    return _bind(0)


def check_free(port: int, what: str) -> int:
    """Return ``port`` if nobody listens on it.

    Raises:
        ServiceError: if it is in use or not ours to use.
    """
    try:
        return _bind(port)
    except PermissionError:
        raise ServiceError(
            f"{what} may not use port {port}: ports below 1024 need rights. Choose another with --port."
        ) from None
    except OSError as error:
        raise ServiceError(
            f"{what} cannot use port {port} of {LOOPBACK}: it is in use ({error.strerror}). "
            "End the program that listens there, or choose another with --port."
        ) from None
