"""Finding a lab's processors: entry points of installed packages, and names in the settings."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from openmsi_streams.errors import ConfigurationError
from openmsi_streams.processors.api import Processor

if TYPE_CHECKING:
    from openmsi_streams.config.settings import Settings

GROUP = "openmsi_streams.processors"


def load_processors(settings: Settings) -> list[Processor]:
    """Return all processors, those of entry points first, each once.

    Raises:
        ConfigurationError: one cannot be imported, is not a processor, or shares its name with another.
    """
    found: dict[str, Processor] = {}
    origin: dict[str, str] = {}
    for reference, where in [*_entry_points(), *((one, "processors.load") for one in settings.processors.load)]:
        one = load_one(reference, where)
        if one.name in found and found[one.name].reference != one.reference:
            raise ConfigurationError(
                f"Two processors are called {one.name!r}: {found[one.name].reference} ({origin[one.name]}) and "
                f"{one.reference} ({where}). Give one another name: @processor(name=...)."
            )
        found.setdefault(one.name, one)
        origin.setdefault(one.name, where)
    return list(found.values())


def _entry_points() -> Iterable[tuple[str, str]]:
    for entry in importlib.metadata.entry_points(group=GROUP):
        yield entry.value, f"entry point {entry.name!r}" + (f" of {entry.dist.name}" if entry.dist else "")


def load_one(reference: str, where: str = "processors.load") -> Processor:
    """Return the processor that ``module:name`` names.

    Raises:
        ConfigurationError: it cannot be imported or is not a processor.
    """
    module, _, name = reference.partition(":")
    try:
        thing: Any = importlib.import_module(module)
        for part in name.split("."):
            thing = getattr(thing, part)
    except Exception as error:
        # A lab's module can fail in any way while it is imported; the worker says so before it starts.
        raise ConfigurationError(
            f"The processor {reference!r} ({where}) cannot be loaded: {type(error).__name__}: {error}. "
            f"Try it: python -c 'import {module}'"
        ) from error
    if not isinstance(thing, Processor):
        raise ConfigurationError(
            f"{reference!r} ({where}) is a {type(thing).__name__}, not a processor. Put @processor(...) above it."
        )
    return thing
