"""The engine: requests become rows, rows become a batch, logits become tokens. One loop on one thread."""

from stride.engine.config import EngineConfig, EngineMetrics, SlotState
from stride.engine.loop import Engine
from stride.engine.measures import Histogram, Measures
from stride.engine.request import Embedding, Failed, Finished, Output, PromptLogprobs, Request, Token
from stride.engine.runner import Model

__all__ = [
    "Embedding",
    "Engine",
    "EngineConfig",
    "EngineMetrics",
    "Failed",
    "Finished",
    "Histogram",
    "Measures",
    "Model",
    "Output",
    "PromptLogprobs",
    "Request",
    "SlotState",
    "Token",
]
