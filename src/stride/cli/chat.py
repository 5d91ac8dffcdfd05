"""Talk with a model in the terminal. /clear starts over, /exit or Ctrl-D ends, Ctrl-C interrupts an answer."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from stride.cli import options
from stride.types import ContentDelta, Finish, Message, ReasoningDelta


def command(
    model: options.Model = None,
    system: Annotated[str | None, typer.Option("--system", help="The system message.")] = None,
    n_predict: options.MaxTokens = None,
    ctx_size: options.Context = None,
    threads: options.Threads = None,
    backend: options.BackendName = "auto",
    cache_type: options.CacheType = "f16",
    draft: options.Draft = "auto",
    draft_max: options.DraftMax = None,
    temperature: options.Temperature = 0.8,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.05,
    seed: options.Seed = None,
) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    sampling: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "max_tokens": n_predict,
    }
    start = [Message("system", system)] if system else []
    drafting = options.drafting(draft, draft_max)
    with options.load(model, backend=backend, n_ctx=ctx_size, threads=threads, kv_type=cache_type, **drafting) as llm:
        console.print(f"{llm.name}, {llm.backend.name}, {llm.n_ctx} tokens of context. /clear, /exit.", style="dim")
        history = list(start)
        while True:
            try:
                text = console.input("> ")
            except (EOFError, KeyboardInterrupt):
                return
            if text.strip() == "/exit":
                return
            if text.strip() == "/clear":
                history = list(start)
                continue
            if not text.strip():
                continue
            history.append(Message("user", text))
            stream = llm.chat(history, stream=True, **sampling)
            reasoning, content = [], []
            try:
                for event in stream:
                    match event:
                        case ReasoningDelta(piece):
                            reasoning.append(piece)
                            console.print(piece, end="", style="dim")
                        case ContentDelta(piece):
                            content.append(piece)
                            console.print(piece, end="")
                        case Finish(timings=timings):
                            console.print()
                            options.print_timings(timings)
            except KeyboardInterrupt:
                stream.cancel()
                print("\n(interrupted)", file=sys.stderr)
            history.append(Message("assistant", "".join(content), "".join(reasoning) or None))
