"""A small laboratory on one machine: instruments, broker, S3, worker and producer, and the proof that all arrived."""
