"""Carries every file of a materials laboratory from the instrument to storage, plots and records, with proof."""

__version__ = "0.1.0"
