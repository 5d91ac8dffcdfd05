"""One completion to stdout, timings to stderr.

The prompt is continued as it stands; with --chat it becomes a user's message in the model's own chat format.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from stride.cli import options
from stride.types import ContentDelta, Finish, ReasoningDelta, ToolCallDelta, ToolCallStart


def command(
    prompt: Annotated[str, typer.Option("-p", "--prompt", metavar="TEXT", help="The prompt; - reads stdin.")],
    model: options.Model = None,
    n_predict: options.MaxTokens = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt in the model's chat format.")] = False,
    ctx_size: options.Context = None,
    threads: options.Threads = None,
    backend: options.BackendName = "auto",
    cache_type: options.CacheType = "f16",
    memory: options.Memory = None,
    draft: options.Draft = "auto",
    draft_max: options.DraftMax = None,
    temperature: options.Temperature = 0.8,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.05,
    typical_p: options.TypicalP = 1.0,
    repeat_penalty: options.RepeatPenalty = 1.0,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    seed: options.Seed = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text; may be repeated.")] = None,
    json_schema: Annotated[
        str | None, typer.Option("-j", "--json-schema", metavar="JSON", help="The output fits this JSON schema.")
    ] = None,
    regex: Annotated[str | None, typer.Option("--regex", help="The output matches this expression.")] = None,
    grammar: Annotated[
        str | None, typer.Option("--grammar", metavar="TEXT", help="The output fits this grammar, GBNF or Lark.")
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the end-of-turn token.")] = False,
) -> None:
    text = sys.stdin.read() if prompt == "-" else prompt
    asked: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "repeat_penalty": repeat_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "max_tokens": n_predict,
        "stop": tuple(stop or ()),
        "ignore_eos": ignore_eos,
        "json_schema": None if json_schema is None else options.json_object(json_schema, "--json-schema"),
        "regex": regex,
        "grammar": grammar,
    }
    drafting = options.drafting(draft, draft_max)
    with options.load(
        model, backend=backend, n_ctx=ctx_size, threads=threads, kv_type=cache_type, memory=memory, **drafting
    ) as llm:
        before = llm.streaming
        if chat:
            stream = llm.chat([{"role": "user", "content": text}], stream=True, **asked)
        else:
            stream = llm.generate(text, stream=True, **asked)
        try:
            for event in stream:
                match event:
                    case ContentDelta(piece) | ReasoningDelta(piece) | ToolCallDelta(arguments=piece):
                        print(piece, end="", flush=True)
                    case ToolCallStart(name=name):
                        print(f"\n{name} ", end="", flush=True)
                    case Finish(timings=timings):
                        print()
                        options.print_timings(timings)
                        if before is not None and (after := llm.streaming) is not None:
                            n_tokens = timings.prompt_n + timings.predicted_n
                            options.print_streaming(after.since(before), n_tokens)
        except KeyboardInterrupt:
            stream.cancel()
            print()
