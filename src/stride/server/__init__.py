"""HTTP: the wire that clients of llama-server, Ollama and OpenAI know."""
