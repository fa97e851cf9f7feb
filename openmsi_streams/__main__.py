"""`python -m openmsi_streams` is the command line."""

from openmsi_streams.cli import main

main()
