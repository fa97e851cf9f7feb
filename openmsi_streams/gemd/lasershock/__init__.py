"""The laser-shock laboratory's own records (exported from FileMaker) as one linked GEMD model.

:func:`read_folder` reads exports, :func:`build` makes the objects, :func:`join` ties experiments to file records.
"""

from __future__ import annotations

from openmsi_streams.gemd.lasershock.exported import Record, read_folder
from openmsi_streams.gemd.lasershock.join import join
from openmsi_streams.gemd.lasershock.model import Built, build

__all__ = ["Built", "Record", "build", "join", "read_folder"]
