"""Header readers: what a file says about itself in its first bytes.

An extractor takes the first bytes of a file (64 KiB are enough) and gives a table; a map entry names it with
``extract = "lecroy"`` or ``extract = "my_module:my_function"`` and uses its values as ``extract:NAME``.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from openmsi_streams.errors import RecordError

log = logging.getLogger(__name__)

HEAD_BYTES = 65536


def run(extractor: Callable[[bytes], Mapping[str, Any]], data: bytes) -> dict[str, Any]:
    """Run an extractor on a file's first bytes; a failure is logged and gives nothing."""
    try:
        return dict(extractor(data[:HEAD_BYTES]))
    except Exception as error:  # a laboratory's own function may raise anything; the file must go on
        log.warning("An extractor failed, its values are left out: %s: %s", type(error).__name__, error)
        return {}


def lecroy(data: bytes) -> dict[str, Any]:
    """Read the header of a LeCroy trace, text or binary.

    Gives ``scope`` (instrument), ``trigger_time`` (as written), ``points``, ``sample_interval`` (s), ``sampling_rate``
    (Hz), and for binary files ``vertical_range`` (V, full scale of the converter). Empty when it is no such file.

    Layout of the binary block: LeCroy's LECROY_2_3 template, as the instrument prints it (``TEMPLATE?``).
    """
    start = data.find(b"WAVEDESC", 0, 64)
    return _lecroy_binary(data[start:]) if start >= 0 else _lecroy_text(data)


def _lecroy_binary(block: bytes) -> dict[str, Any]:
    # COMM_ORDER at 34: 0 is big-endian, 1 little-endian; as a 16-bit number its low byte tells both ways.
    order = "<" if block[34:36] == b"\x01\x00" else ">"
    points = struct.unpack_from(order + "i", block, 116)[0]
    gain = struct.unpack_from(order + "f", block, 156)[0]
    interval = struct.unpack_from(order + "f", block, 176)[0]
    second, minute, hour, day, month, year = struct.unpack_from(order + "dbbbbh", block, 296)
    wide = struct.unpack_from(order + "h", block, 32)[0] == 1
    found: dict[str, Any] = {"scope": block[76:92].split(b"\0")[0].decode("ascii", "replace"), "points": points}
    if interval > 0:
        found["sample_interval"] = float(f"{interval:.6g}")
        found["sampling_rate"] = float(f"{1 / interval:.6g}")
    if gain > 0:
        # VERTICAL_GAIN is volts per step; a byte has 256 steps, a word 65536 (high-definition scopes fill it up).
        found["vertical_range"] = float(f"{gain * (65536 if wide else 256):.6g}")
    if 0 < month <= 12:
        found["trigger_time"] = f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{int(second):02d}"
    return found


def _lecroy_text(data: bytes) -> dict[str, Any]:
    lines = data[:HEAD_BYTES].decode("utf-8", "replace").splitlines()
    if len(lines) < 5 or not lines[0].upper().startswith("LECROY"):
        return {}
    first = [part.strip() for part in lines[0].split(",")]
    found: dict[str, Any] = {"scope": first[0]}
    segments = [part.strip() for part in lines[1].split(",")]
    for label, value in zip(segments[0::2], segments[1::2], strict=False):
        if label.lower() == "segmentsize" and value.isdecimal():
            found["points"] = int(value)
    stamp = lines[3].split(",")
    if len(stamp) > 1:
        found["trigger_time"] = stamp[1].strip()
    times = []
    for line in lines[5 : len(lines) - 1]:  # the last line of the head may be cut
        try:
            times.append(float(line.split(",")[0]))
        except ValueError:
            break
    if len(times) > 1 and times[-1] > times[0]:
        interval = (times[-1] - times[0]) / (len(times) - 1)
        found["sample_interval"] = float(f"{interval:.5g}")
        found["sampling_rate"] = float(f"{1 / interval:.5g}")
    return found


_pair = re.compile(r"^[\s#;*!%/_-]*([A-Za-z][\w .()/%-]*?)\s*[=:]\s*(.+?)\s*$")
_ras = re.compile(r'^\*([A-Z][A-Z0-9_]*)\s+"?([^"]*)"?\s*$')


def header_lines(data: bytes) -> dict[str, Any]:
    """Read ``name = value`` and ``name: value`` lines at the top of a text file, with any comment sign before them.

    Fits the headers of many diffractometers (XRD ``.xy``, ``.dat``, Rigaku ``.ras`` with ``*NAME "value"``) and of
    self-made CSV files. Numbers become numbers. Reading stops at the first line of data.
    """
    found: dict[str, Any] = {}
    for line in data[:HEAD_BYTES].decode("utf-8", "replace").splitlines()[:500]:
        if not line.strip():
            continue
        if line.strip()[0].isdigit() or (line.strip()[0] in "+-." and line.strip()[1:2].isdigit()):
            break
        match = _ras.match(line) or _pair.match(line)
        if match is not None:
            found.setdefault(match.group(1).strip(), _number(match.group(2).strip().strip('"')))
    return found


def _number(text: str) -> Any:
    try:
        return float(text) if not text.isdecimal() else int(text)
    except ValueError:
        return text


BUILT_IN: dict[str, Callable[[bytes], Mapping[str, Any]]] = {
    "lecroy": lecroy,
    "xrd": header_lines,
    "header": header_lines,
}


def named(name: str | None, where: str) -> Callable[[bytes], Mapping[str, Any]] | None:
    """Give the extractor that a mapping names: a built-in one, or ``module:function``.

    Raises:
        RecordError: there is none of that name, or it is no function.
    """
    if name is None:
        return None
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise RecordError(
            f"{where}: the extractor {name!r} is unknown. Built in: {', '.join(sorted(BUILT_IN))}; or give "
            "your own as 'module:function'."
        )
    try:
        function = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise RecordError(f"{where}: the extractor {name!r} cannot be loaded: {error}.") from error
    if not callable(function):
        raise RecordError(f"{where}: the extractor {name!r} is not a function.")
    made: Callable[[bytes], Mapping[str, Any]] = function
    return made
