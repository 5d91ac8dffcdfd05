"""HTTP: the wire that clients of llama-server, Ollama and OpenAI know."""

from stride.server.app import create_app
from stride.server.models import Models
from stride.server.service import Settings

__all__ = ["Models", "Settings", "create_app"]
