"""From a file (or its bytes) to a Trace, with no settings: the content says what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openmsi_streams.pdv.text import read_text
from openmsi_streams.pdv.trace import Trace, TraceError
from openmsi_streams.pdv.trc import is_trc, read_trc

# How much of a file `sniff` wants to see: a Keysight header of 24 lines and some rows.
SNIFF_BYTES = 4096
# A scope record of PDV is sampled at 0.5 GS/s at the least (an event lasts nanoseconds); slower tables are not ours.
SLOWEST_STEP = 2e-9
# 64 million samples take about 2 GB of memory in the analysis. Larger records belong on the scope's own disk, cut.
MAX_SAMPLES = 64_000_000
# A text row takes at least 16 bytes.
MAX_TEXT_BYTES = 16 * MAX_SAMPLES
MAX_TRC_BYTES = 2 * MAX_SAMPLES + (1 << 20)


def read_trace(source: Path | bytes, channel: str = "") -> Trace:
    """Read a LeCroy `.trc`, LeCroy text, Keysight CSV or plain CSV record.

    A path is opened for reading only. Samples that are not finite are bridged and flagged.

    Raises TraceError with a plain reason for whatever cannot be read, OSError when the file cannot be opened.
    """
    if isinstance(source, bytes):
        trace = _decode(source, len(source), channel)
    else:
        size = source.stat().st_size
        if size == 0:
            raise TraceError("the file is empty. Usual cause: the save was interrupted, or the disk was full.")
        with source.open("rb") as file:
            head = file.read(SNIFF_BYTES)
            _check_size(head, size)
            data = head + file.read()
        trace = read_trc(data) if is_trc(head) else read_text(data, channel)
    return _checked(trace)


def _decode(data: bytes, size: int, channel: str) -> Trace:
    if not data:
        raise TraceError("the file is empty. Usual cause: the save was interrupted, or the disk was full.")
    head = data[:SNIFF_BYTES]
    _check_size(head, size)
    return read_trc(data) if is_trc(head) else read_text(data, channel)


def _check_size(head: bytes, size: int) -> None:
    limit = MAX_TRC_BYTES if is_trc(head) else MAX_TEXT_BYTES
    if size > limit:
        raise TraceError(
            f"the record has {size / 1e9:.1f} GB, more than {limit / 1e9:.1f} GB can be analysed. "
            "Save a shorter record, or only the part around the event."
        )


def _checked(trace: Trace) -> Trace:
    if trace.volts.size > MAX_SAMPLES:
        raise TraceError(f"the record has {trace.volts.size} samples, more than {MAX_SAMPLES}. Save a shorter record.")
    finite = np.isfinite(trace.volts)
    if not finite.all():
        missing = int(finite.size - finite.sum())
        if missing > 0.01 * finite.size:
            raise TraceError(f"{missing} of {finite.size} voltages are not numbers. Usual cause: a damaged export.")
        for row, good in zip(trace.volts, finite, strict=True):
            if not good.all():
                index = np.arange(row.size)
                row[~good] = np.interp(index[~good], index[good], row[good]) if good.any() else 0.0
        trace.flags.append("missing_samples")
        trace.notes.append(f"{missing} voltage(s) missing or not a number, bridged")
    return trace


def sniff(head: bytes, name: str) -> bool:
    """Whether the first bytes of a file (``SNIFF_BYTES`` are enough) look like a scope record; ``name`` is its name."""
    suffix = Path(name).suffix.lower()
    if suffix == ".trc" or is_trc(head):
        return suffix == ".trc" or suffix == ""
    if suffix not in (".txt", ".csv"):
        return False
    if head.startswith((b"LECROY", b"\xef\xbb\xbfLECROY")):
        return b"Segment" in head[:400]
    if (b"XInc:" in head and b"YUnits:" in head) or head.startswith((b"Revision:", b",Channel")):
        return True
    cut = head.rfind(b"\n") + 1
    if not cut:
        return False
    try:
        trace = read_text(head[:cut])
    except (TraceError, ValueError, IndexError):
        return False
    return trace.points >= 8 and trace.dt <= SLOWEST_STEP and not trace.flags
