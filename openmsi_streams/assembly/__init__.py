"""Partial files, their verification, and reading the log again: plain Python, no Faust."""
