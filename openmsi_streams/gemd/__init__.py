"""GEMD records: what was measured, on which sample, with which settings, and where its files are.

Importing this package is cheap: the gemd library (0.3 s, and it changes the working directory for a moment) is
imported when a vocabulary is loaded, never before. Start with :class:`openmsi_streams.gemd.mapping.Mapping` and
:func:`openmsi_streams.gemd.emit.records_for_file`; read records back with :mod:`openmsi_streams.gemd.read`.
"""
