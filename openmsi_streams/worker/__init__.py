"""The worker's engine, from a message to a delivered file version: plain asyncio, without Faust."""
