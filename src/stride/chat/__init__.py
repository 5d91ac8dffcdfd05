"""Text on both sides of the model: tokenizers, templates, and the parser of what comes out."""
