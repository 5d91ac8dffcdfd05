"""Tool-call formats, one small module each."""
