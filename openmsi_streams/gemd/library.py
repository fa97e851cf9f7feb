"""The gemd library, imported once and late, and the few things we take from it: units and templates.

Importing gemd has side effects: it copies its unit files to a temporary folder and changes the working directory for
a moment. So it is imported here alone, at start, in the main thread, and never while files are being handled.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from types import ModuleType
from typing import Any

from openmsi_streams.errors import ExtraMissing, RecordError

_lock = threading.Lock()


@functools.cache
def library() -> ModuleType:
    """Give the gemd package with ``json``, ``units`` and ``util`` loaded.

    Raises:
        ExtraMissing: gemd is not installed.
        RecordError: gemd cannot be loaded here (no working directory, no temporary folder).
    """
    with _lock:
        # Pint warns at import that gemd's unit file redefines some symbols; nobody can act on that.
        noise = logging.getLogger("pint.util")
        level = noise.level
        noise.setLevel(logging.ERROR)
        try:
            os.getcwd()
            import gemd
            import gemd.json
            import gemd.units
            import gemd.util
        except ModuleNotFoundError as error:
            raise ExtraMissing("Writing GEMD records", "server", error.name or "gemd") from error
        except OSError as error:
            raise RecordError(
                f"The gemd library cannot be loaded: {error}. It needs a working directory that exists and a writable "
                "temporary folder. Start the program in an existing folder and check TMPDIR."
            ) from error
        finally:
            noise.setLevel(level)
    module: ModuleType = gemd
    return module


def objects() -> Any:
    """Give a namespace with gemd's object, template, value, bounds, attribute and link classes."""
    library()
    return _objects()


@functools.cache
def _objects() -> Any:
    from types import SimpleNamespace

    import gemd

    return SimpleNamespace(**{name: getattr(gemd, name) for name in dir(gemd) if not name.startswith("_")})


@functools.lru_cache(maxsize=1024)
def unit_name(unit: str) -> str:
    """Give the name that gemd writes for a unit (``GPa`` becomes ``gigapascal``).

    Raises:
        RecordError: gemd knows no such unit.
    """
    units = library().units
    try:
        name: str = units.parse_units(unit)
    except Exception as error:  # pint raises many kinds, even tokenizer errors
        raise RecordError(
            f"The unit {unit!r} is not known ({error}). Write it as gemd's unit file has it: 'm/s', 'GPa', 'Hz', "
            "'byte', or '' for a plain number."
        ) from error
    return name


@functools.lru_cache(maxsize=1024)
def base_units(unit: str) -> str:
    """Give the base units of a unit (``GPa``: ``kilogram / meter / second ** 2``). Angles and counts stay apart."""
    return str(library().units.get_base_units(unit_name(unit))[0])


@functools.lru_cache(maxsize=1024)
def _ratio(start: str, end: str) -> float | None:
    """Give the factor between two units, or None where a factor alone does not do (degrees Celsius, decibel)."""
    units = library().units
    if any(units.get_base_units(name)[2] for name in (start, end)):
        return None
    factor: float = units.convert_units(1.0, start, end)
    return factor


def convert(value: float, start: str, end: str) -> float:
    """Convert a value between units of one dimension; the result has 12 digits, so that its bytes are stable.

    12 digits: ``1 um/ns`` gives 999.9999999999999 m/s in double precision, and another build of the maths library may
    change the 13th digit of a result.

    Raises:
        RecordError: the units measure different things, or one is unknown.
    """
    start, end = unit_name(start), unit_name(end)
    if start == end:
        return value
    if base_units(start) != base_units(end):
        raise RecordError(
            f"{start!r} ({base_units(start)}) cannot become {end!r} ({base_units(end)}): they measure different things."
        )
    factor = _ratio(start, end)
    result = value * factor if factor is not None else float(library().units.convert_units(value, start, end))
    return float(f"{result:.12g}")


def exact_bound(value: float, start: str, end: str) -> float:
    """Convert a bound exactly as gemd does when it checks a value, so that both come to the same answer."""
    return float(library().units.convert_units(value, unit_name(start), unit_name(end)))
