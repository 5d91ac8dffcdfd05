"""The vocabulary of a tekken.json, Mistral's form of tiktoken's ranks, as byte-level tokens and merges.

One lies in PyPI's mistral-common (`mistral_common/data/tekken_240911.json`, 150,000 tokens of text).
"""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path


def read(path: Path, n_tokens: int) -> tuple[list[str], list[str]]:
    """The first tokens in the order of their ranks, and the merges that make them."""
    entries = json.loads(path.read_bytes())["vocab"][:n_tokens]
    ranks = {base64.b64decode(entry["token_bytes"]): rank for rank, entry in enumerate(entries)}
    if len(ranks) < n_tokens:
        raise ValueError(f"{path} holds {len(ranks)} tokens, fewer than {n_tokens}")
    halves = [_halves(token, ranks) for token in ranks if len(token) > 1]
    return [_spelled(token) for token in ranks], [f"{_spelled(left)} {_spelled(right)}" for left, right in halves]


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """What is left of a token's bytes before the last merge."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _alphabet() -> dict[int, str]:
    """GPT-2's: printable Latin-1 is itself, the other bytes are U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


_ALPHABET = _alphabet()


def _spelled(token: bytes) -> str:
    return "".join(_ALPHABET[byte] for byte in token)
