"""GGUF files: a strict reader, the quantised block layouts, and a writer."""

from stride.gguf.quants import QuantType
from stride.gguf.reader import GGUFFile, Tensor, open_gguf

__all__ = ["GGUFFile", "QuantType", "Tensor", "open_gguf"]
