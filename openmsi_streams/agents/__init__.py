"""Faust agents: each takes events from a topic and hands them to the engine."""
