"""Models: metadata to a frozen configuration, weights by name, one decoder."""
