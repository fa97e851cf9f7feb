"""One typed Settings object from TOML, environment and flags."""

from openmsi_streams.config.load import load, load_with_sources
from openmsi_streams.config.settings import Settings

__all__ = ["Settings", "load", "load_with_sources"]
