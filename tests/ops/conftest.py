"""Random weights as tensors of real files, and random batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import gguf
import numpy as np
import pytest

from stride.gguf import QuantType, Tensor, open_gguf
from stride.ops.api import PAGE_TOKENS, Batch

MakeTensor = Callable[..., Tensor]

HALVES = {
    QuantType.Q4_0: (0,),
    QuantType.Q8_0: (0,),
    QuantType.IQ4_NL: (0,),
    QuantType.IQ4_XS: (0,),
    QuantType.Q4_K: (0, 2),
    QuantType.Q5_K: (0, 2),
    QuantType.Q6_K: (208,),
    QuantType.Q5_0: (0,),
    QuantType.Q3_K: (108,),
}
"""Where the float16 numbers of a block are; every other bit pattern is a valid code."""


def random_rows(rng: np.random.Generator, kind: QuantType, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [..., row bytes]: values of about unit variance for plain types, arbitrary blocks for others."""
    if kind not in HALVES:
        values = rng.standard_normal(shape).astype(np.float32)
        if kind is QuantType.BF16:
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.astype(np.float16 if kind is QuantType.F16 else np.float32).view(np.uint8)
    *leading, columns = shape
    n_blocks = columns // kind.block_size
    blocks = rng.integers(0, 256, (*leading, n_blocks, kind.block_bytes), dtype=np.uint8)
    for offset in HALVES[kind]:
        halves = (0.002 * rng.standard_normal((*leading, n_blocks, 1))).astype(np.float16)
        blocks[..., offset : offset + 2] = halves.view(np.uint8)
    return blocks.reshape(*leading, -1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def make_tensor(tmp_path: Path, rng: np.random.Generator) -> Iterator[MakeTensor]:
    """Writes random (or the given float32) values into a file of its own; gives the file's tensor."""
    with ExitStack() as files:
        count = 0

        def make(kind: QuantType, *shape: int, values: np.ndarray | None = None) -> Tensor:
            nonlocal count
            count += 1
            path = tmp_path / f"weight-{count}.gguf"
            writer = gguf.GGUFWriter(path, "llama")
            if values is not None:
                writer.add_tensor("w", np.ascontiguousarray(values, np.float32))
            else:
                rows = random_rows(rng, kind, shape)
                writer.add_tensor("w", rows, raw_dtype=gguf.GGMLQuantizationType(int(kind)))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return files.enter_context(open_gguf(path)).tensors["w"]

        yield make


@pytest.fixture
def make_batch(rng: np.random.Generator) -> Callable[..., tuple[Batch, int]]:
    """A batch of rows, each given as (first position, tokens), whose pages are shuffled; and how many pages there are.

    Pages that lie wholly before ``window`` are gone from the tables (-1).
    """

    def make(*rows: tuple[int, int], window: int | None = None) -> tuple[Batch, int]:
        n_pages = [-(-(first + n) // PAGE_TOKENS) for first, n in rows]
        ids = rng.permutation(sum(n_pages) + 3).astype(np.int32)
        table = np.full((len(rows), max(n_pages) + 1), -1, np.int32)
        used = 0
        for row, ((first, _), count) in enumerate(zip(rows, n_pages, strict=True)):
            gone = 0 if window is None else max(0, first - window + 1) // PAGE_TOKENS
            table[row, gone:count] = ids[used + gone : used + count]
            used += count
        lengths = [n for _, n in rows]
        n_tokens = sum(lengths)
        batch = Batch(
            token_ids=np.zeros(n_tokens, np.int32),
            positions=np.concatenate([np.arange(first, first + n, dtype=np.int32) for first, n in rows]),
            row_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
            page_tables=(table,),
            outputs=np.arange(n_tokens, dtype=np.int32),
        )
        return batch, len(ids)

    return make
