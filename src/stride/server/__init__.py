"""HTTP: the wire that clients of llama-server, Ollama and OpenAI know."""

from stride.server.app import Settings, create_app

__all__ = ["Settings", "create_app"]
