"""GGUF files: a strict reader, the quantised block layouts, and a writer."""

from stride.gguf.fingerprint import fingerprint
from stride.gguf.metadata import Metadata, Value
from stride.gguf.quants import QuantType
from stride.gguf.reader import GGUFFile, Tensor, open_gguf, open_sources

__all__ = ["GGUFFile", "Metadata", "QuantType", "Tensor", "Value", "fingerprint", "open_gguf", "open_sources"]
