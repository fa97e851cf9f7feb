"""A lab's own functions on each delivered file.

from openmsi_streams.processors import DeliveredFile, Result, processor

@processor(topic="xrd", match="*.csv")
def lines(file: DeliveredFile) -> Result:
    text = file.path.read_text()
    return Result(json={"lines": text.count("\\n")})
"""

from openmsi_streams.processors.api import (
    DeliveredFile,
    NotNow,
    Processor,
    Produced,
    ProducedFile,
    RejectFile,
    Result,
    processor,
)
from openmsi_streams.processors.decide import Decision, decide
from openmsi_streams.processors.registry import load_processors
from openmsi_streams.processors.runner import Outcome, Runner, RunnerClosed

__all__ = [
    "Decision",
    "DeliveredFile",
    "NotNow",
    "Outcome",
    "Processor",
    "Produced",
    "ProducedFile",
    "RejectFile",
    "Result",
    "Runner",
    "RunnerClosed",
    "decide",
    "load_processors",
    "processor",
]
