"""The engine: requests become rows, rows become a batch, logits become tokens. One loop on one thread."""
