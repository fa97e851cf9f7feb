"""The program beside the instrument: it finds files, waits until they are whole, sends them, and learns their fate.

Light on purpose: confluent-kafka, msgspec, watchdog, click, tqdm and platformdirs are all it loads.
"""
