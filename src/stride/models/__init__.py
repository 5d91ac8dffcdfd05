"""Models: metadata to a frozen configuration, weights by name, one decoder."""

from stride.models.config import ModelConfig, read_config
from stride.models.decoder import Decoder
from stride.models.load import check_model, load_model
from stride.models.session import Session, logits

__all__ = ["Decoder", "ModelConfig", "Session", "check_model", "load_model", "logits", "read_config"]
