"""Perplexity of a text file under a model, measured as llama.cpp does.

The text is cut into windows of the context's length; in each, the tokens of the second half are predicted.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from stride.cli import options


def command(
    file: Annotated[Path, typer.Option("-f", "--file", metavar="FILE", help="Text, UTF-8.")],
    model: options.Model = None,
    ctx_size: Annotated[int, typer.Option("-c", "--ctx-size", metavar="N", help="Tokens per window.", min=4)] = 512,
    windows: Annotated[int | None, typer.Option("--chunks", metavar="N", help="Windows at most.", min=1)] = None,
    threads: options.Threads = None,
    backend: options.BackendName = "auto",
    cache_type: options.CacheType = "f16",
) -> None:
    import numpy as np
    from rich.progress import track

    from stride.errors import RequestError

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: {error}") from error
    with options.load(model, backend=backend, n_ctx=ctx_size, threads=threads, kv_type=cache_type) as llm:
        ids = llm.tokenize(text)
        n_windows = min(len(ids) // ctx_size, windows or len(ids))
        if n_windows == 0:
            raise RequestError(f"{file} has {len(ids)} tokens; perplexity needs at least one window of {ctx_size}")
        half, losses = ctx_size // 2, []
        for w in track(range(n_windows), "windows", disable=not sys.stderr.isatty(), transient=True):
            window = ids[w * ctx_size : (w + 1) * ctx_size]
            targets = window[half + 1 :]
            if llm.tokenizer.add_bos and llm.tokenizer.bos_id is not None:
                window = [llm.tokenizer.bos_id, *window[1:]]
            logits = llm.logits(window)[half : ctx_size - 1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(logits).sum(axis=1))
            losses.append(log_sum - logits[np.arange(len(targets)), targets])
        loss = np.concatenate(losses)
        perplexity = math.exp(loss.mean())
        uncertainty = perplexity * loss.std(ddof=1) / math.sqrt(len(loss))
        print(
            f"perplexity {perplexity:.4f} ± {uncertainty:.4f} ({len(loss)} tokens in {n_windows} windows of {ctx_size})"
        )
