"""Serve a model over HTTP, as llama-server, OpenAI, Anthropic and Ollama do: /v1/chat/completions, /v1/completions,
/v1/responses, /v1/messages, /v1/embeddings, /api/chat, /completion, /v1/models, /metrics and more, which /docs lists.

A llama-server command line works with the program's name replaced: -ngl, -b, -ub, -fa, -cb, --no-warmup, --mlock,
--no-mmap, --jinja and other flags that would change nothing here are accepted, and each says so.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stride.cli import options
from stride.cli.foreign import LlamaServerCommand

if TYPE_CHECKING:
    from stride.memory import Plan
    from stride.server import Settings
    from stride.server.models import Load, ModelFile

COMMAND_CLASS = LlamaServerCommand

Model = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--model",
        "-hf",
        "-hfr",
        "--hf-repo",
        metavar="[NAME=]MODEL",
        help=f"{options.MODEL_HELP} Given several times with names, each is loaded when a request asks for it.",
    ),
]


def command(
    model: Model = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 picks a free one.", min=0, max=65535)] = 8090,
    ctx_size: Annotated[
        int | None, typer.Option("-c", "--ctx-size", metavar="N", help="Tokens of context; 0: as many as fit.", min=0)
    ] = None,
    parallel: Annotated[
        int,
        typer.Option("-np", "--parallel", metavar="N", help="Requests computed together; -1: 4, or what fits.", min=-1),
    ] = -1,
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", metavar="N", help="Threads. Default (-1): all cores.", min=-1)
    ] = None,
    backend: options.BackendName = "auto",
    cache_type_k: Annotated[
        str, typer.Option("-ctk", "--cache-type-k", help="Keys as f32, f16, q8_0 or auto.")
    ] = "auto",
    cache_type_v: Annotated[str, typer.Option("-ctv", "--cache-type-v", help="Values; the same as keys.")] = "auto",
    memory: options.Memory = None,
    cache_ram: Annotated[
        int | None,
        typer.Option(
            "-cram",
            "--cache-ram",
            metavar="MiB",
            help="Memory for earlier prompts; 0: none, -1: all that is left. Default: 8192, or half of what is left.",
            min=-1,
        ),
    ] = None,
    cache_prompt: Annotated[
        bool, typer.Option("--cache-prompt/--no-cache-prompt", help="Use earlier prompts where a request says nothing.")
    ] = True,
    cache_dir: Annotated[
        Path | None, typer.Option("--cache-dir", metavar="DIR", help="Keep earlier prompts here across restarts.")
    ] = None,
    draft: options.Draft = "auto",
    draft_max: options.DraftMax = None,
    model_draft: Annotated[
        str | None,
        typer.Option("-md", "--model-draft", "--spec-draft-model", metavar="FILE", help="As --draft FILE."),
    ] = None,
    spec_type: Annotated[
        str | None, typer.Option("--spec-type", help="llama-server's names: none, draft-mtp (heads), ngram-* (lookup).")
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option("--pooling", help="Vectors of texts as mean, cls or last. Default: the file's, or last."),
    ] = None,
    alias: Annotated[str | None, typer.Option("-a", "--alias", help="The model's name for clients.")] = None,
    api_key: Annotated[
        list[str] | None, typer.Option("--api-key", metavar="KEY", help="Ask for this key; several with commas.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="Keys, one on each line; SIGHUP reads it again.")
    ] = None,
    key_parallel: Annotated[
        int, typer.Option("--key-parallel", metavar="N", help="Answers of one key at a time; 0: any number.", min=0)
    ] = 0,
    key_per_minute: Annotated[
        int, typer.Option("--key-per-minute", metavar="N", help="Requests of one key in a minute; 0: any.", min=0)
    ] = 0,
    max_queue: Annotated[
        int, typer.Option("--max-queue", metavar="N", help="Requests that may wait; more get 429.", min=0)
    ] = 64,
    queue_timeout: Annotated[
        float, typer.Option("--queue-timeout", metavar="S", help="How long a request may wait.", min=0.01)
    ] = 600.0,
    request_timeout: Annotated[
        float, typer.Option("--request-timeout", metavar="S", help="How long one may take. Default: any time.", min=0)
    ] = 0.0,
    drain_timeout: Annotated[
        float,
        typer.Option("--drain-timeout", metavar="S", help="How long requests may go on after a signal.", min=0),
    ] = 30.0,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let others in without a key.")] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option("--allowed-host", metavar="NAME", help="Without a key, also answer for this host; repeatable."),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        typer.Option("--allowed-origin", metavar="ORIGIN", help="Pages that may ask: https://NAME; repeatable."),
    ] = None,
    n_predict: Annotated[
        int | None,
        typer.Option("-n", "--n-predict", "--predict", metavar="N", help="Tokens at most, where none is asked."),
    ] = None,
    temperature: options.Temperature = 0.8,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.05,
    typical_p: Annotated[float, typer.Option("--typical", "--typical-p", help="Locally typical sampling.")] = 1.0,
    repeat_penalty: options.RepeatPenalty = 1.0,
    repeat_last_n: Annotated[int, typer.Option("--repeat-last-n", help="Tokens it looks back; -1: all.")] = 64,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    dry_multiplier: options.DryMultiplier = 0.0,
    dry_base: options.DryBase = 1.75,
    dry_allowed_length: options.DryAllowedLength = 2,
    dry_penalty_last_n: options.DryPenaltyLastN = 64,
    dry_sequence_breaker: options.DrySequenceBreakers = None,
    xtc_probability: options.XtcProbability = 0.0,
    xtc_threshold: options.XtcThreshold = 0.1,
    top_n_sigma: options.TopNSigma = -1.0,
    dynatemp_range: options.DynatempRange = 0.0,
    dynatemp_exponent: options.DynatempExponent = 1.0,
    mirostat: options.MirostatVersion = 0,
    mirostat_tau: options.MirostatTau = 5.0,
    mirostat_eta: options.MirostatEta = 0.1,
    samplers: options.Samplers = None,
    sampling_seq: options.SamplingSequence = None,
    seed: options.Seed = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past the end-of-turn token.")] = False,
    reasoning_budget: Annotated[
        int, typer.Option("--reasoning-budget", metavar="N", help="Tokens of reasoning at most; -1: no limit.", min=-1)
    ] = -1,
    chat_template_file: Annotated[
        Path | None, typer.Option("--chat-template-file", help="Jinja, not the file's.")
    ] = None,
    chat_template_kwargs: Annotated[
        str, typer.Option("--chat-template-kwargs", metavar="JSON", help="Variables of the chat template.")
    ] = "{}",
    sse_ping_interval: Annotated[
        float,
        typer.Option("--sse-ping-interval", metavar="S", help="Silence before a stream sends a comment.", min=0.01),
    ] = 15.0,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", "--log-verbose", help="Log each request.")] = False,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log each request as a line of JSON.")] = False,
) -> None:
    from stride.embeddings import check_pooling
    from stride.errors import RequestError
    from stride.server import Models, Settings
    from stride.server.process import serve
    from stride.types import sampling_params

    if cache_type_k != cache_type_v:
        raise RequestError(f"keys ({cache_type_k}) and values ({cache_type_v}) must be of one type", field="-ctv")
    sampling: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical_p": typical_p,
        "repeat_penalty": repeat_penalty,
        "repeat_last_n": repeat_last_n,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "dry_multiplier": dry_multiplier,
        "dry_base": dry_base,
        "dry_allowed_length": dry_allowed_length,
        "dry_penalty_last_n": dry_penalty_last_n,
        "dry_sequence_breakers": dry_sequence_breaker,
        "xtc_probability": xtc_probability,
        "xtc_threshold": xtc_threshold,
        "top_n_sigma": top_n_sigma,
        "dynatemp_range": dynatemp_range,
        "dynatemp_exponent": dynatemp_exponent,
        "mirostat": mirostat,
        "mirostat_tau": mirostat_tau,
        "mirostat_eta": mirostat_eta,
        "samplers": sampling_seq if samplers is None else [name for name in samplers.split(";") if name],
        "seed": seed,
        "ignore_eos": ignore_eos,
        "max_tokens": n_predict,
        "cache_prompt": cache_prompt,
    }
    sampling_params(sampling)
    if pooling is not None:
        check_pooling(pooling)
    settings = Settings(
        host=host,
        allowed_hosts=tuple(allowed_host or ()),
        allowed_origins=tuple(allowed_origin or ()),
        api_keys=tuple(key for text in api_key or () for key in _keys(text)),
        api_key_file=api_key_file,
        key_parallel=key_parallel,
        key_per_minute=key_per_minute,
        alias=alias,
        sampling={name: value for name, value in sampling.items() if value is not None},
        template_kwargs=options.json_object(chat_template_kwargs, "--chat-template-kwargs"),
        reasoning_budget=reasoning_budget,
        ping_seconds=sse_ping_interval,
    )
    _check_exposure(settings, insecure)
    arguments = {
        "backend": backend,
        "n_ctx": ctx_size,
        "n_parallel": parallel if parallel > 0 else None,
        "threads": threads if threads is not None and threads > 0 else None,
        "kv_type": cache_type_k,
        "memory": memory,
        "cache_ram": cache_ram,
        "cache_dir": cache_dir,
        **options.drafting(draft, draft_max, model_draft, spec_type),
        "pooling": pooling,
        "chat_template": _read(chat_template_file) if chat_template_file else None,
        "max_queue": max_queue,
        "queue_seconds": queue_timeout,
        "request_seconds": request_timeout or math.inf,
    }
    named = _models(model or [], alias)
    files = _check_files(named) if len(named) > 1 else {}
    models = Models({name: _loading(name, path, arguments) for name, path in named.items()}, files)
    serve(models, settings, port, verbose, log_json, drain_timeout)


def _keys(text: str) -> list[str]:
    """Keys between commas.

    Raises:
        RequestError: there is none, such as where a variable is not set: that must not open the server to everybody.
    """
    from stride.errors import RequestError

    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        raise RequestError("--api-key is empty", field="--api-key")
    return keys


def _models(given: list[str], alias: str | None) -> dict[str, str | None]:
    """Models by name: NAME=MODEL, unless a file of that whole name exists; one alone needs no name.

    Raises:
        RequestError: several models, of which one has no name, or that of another; or an alias for all of them.
    """
    from stride.errors import RequestError

    named: dict[str, str | None] = dict(map(_named, given)) or {"": None}
    if len(given) <= 1:
        return named
    if "" in named or len(named) < len(given):
        raise RequestError("several models need a name each: -m NAME=MODEL", field="--model")
    if alias is not None:
        raise RequestError("an alias is for one model; of several, each has its name", field="--alias")
    return named


def _check_files(named: dict[str, str | None]) -> dict[str, ModelFile]:
    """The models' files; what is wrong with one is better heard now than at its first request.

    Raises:
        StrideError: one is not there or cannot run.
    """
    from stride.gguf import open_gguf
    from stride.load import model_path
    from stride.models.load import check_model
    from stride.server.models import ModelFile

    files = {}
    for name, path in named.items():
        with open_gguf(found := model_path(path)) as file:
            check_model(file)
            files[name] = ModelFile(found, file.n_bytes)
    return files


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals and not Path(text).exists() else ("", text)


def _loading(name: str, path: str | None, arguments: dict[str, Any]) -> Load:
    def planned(plan: Plan) -> None:
        print(f"{name}: {plan}" if name else plan, file=sys.stderr, flush=True)

    return lambda stopping: options.load(path, stopping, planned=planned, **arguments)


def _read(file: Path) -> str:
    from stride.errors import StrideError

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StrideError(f"{file} cannot be read: {error}") from error


def _check_exposure(settings: Settings, insecure: bool) -> None:
    from stride.errors import StrideError
    from stride.server.origins import is_loopback

    if not (is_loopback(settings.host) or settings.api_keys or settings.api_key_file or insecure):
        raise StrideError(
            f"{settings.host} can be reached from other machines: give --api-key KEY, "
            "or --insecure to let everybody in without one"
        )
