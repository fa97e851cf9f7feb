"""Numbers of bytes as people write them: ``64 MiB``, ``20MB/s``."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from msgspec import Meta

from openmsi_streams.config.settings import BYTES

UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
UNITS |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def parse(text: str) -> int:
    """Return bytes (a second) from text like ``20MB/s``, ``512KiB`` or ``1000000``.

    Raises:
        ValueError: it is not such a text.
    """
    bare = text.strip().lower().removesuffix("/s").removesuffix("b").strip()
    number = bare.rstrip("kmgti ")
    try:
        return int(float(number) * UNITS[bare[len(number) :].strip()])
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"{text!r} is not a number of bytes. Write for example 20MB/s, 512KiB or 1000000.") from None


def written(bytes_: int) -> str:
    """Return a number of bytes with the largest binary unit that divides it: ``32MiB``; see `parse`."""
    for name, unit in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if bytes_ and bytes_ % unit == 0:
            return f"{bytes_ // unit}{name}"
    return str(bytes_)


def is_size(hint: Any) -> bool:
    """Say whether a setting of this type is a number of bytes."""
    return get_origin(hint) is Annotated and any(
        isinstance(one, Meta) and one.extra == BYTES for one in get_args(hint)[1:]
    )
