"""The engine: requests become rows, rows become a batch, logits become tokens. One loop on one thread."""

from stride.engine.loop import Engine, EngineConfig, EngineMetrics
from stride.engine.request import Failed, Finished, Output, Request, Token
from stride.engine.runner import Model

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineMetrics",
    "Failed",
    "Finished",
    "Model",
    "Output",
    "Request",
    "Token",
]
