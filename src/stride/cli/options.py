"""Options that several commands share, and how a command loads its model."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stride.errors import StrideError

if TYPE_CHECKING:
    from stride.api import LLM
    from stride.ops.api import StreamCounts

MODEL_HELP = "GGUF file, any part of a split one, its folder, or a pulled repository. Default: the demo model."
Model = Annotated[str | None, typer.Option("-m", "--model", metavar="MODEL", help=MODEL_HELP)]
Context = Annotated[int | None, typer.Option("-c", "--ctx-size", metavar="N", help="Tokens of context.", min=1)]
Threads = Annotated[
    int | None, typer.Option("-t", "--threads", metavar="N", help="Threads. Default: all cores.", min=1)
]
BackendName = Annotated[str, typer.Option("--backend", help="auto, cpu or numpy.")]
CacheType = Annotated[str, typer.Option("--cache-type", help="Keys and values as f32, f16 or q8_0.")]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="All it may take, such as 16G; more experts then stay on disk."),
]
Draft = Annotated[
    str,
    typer.Option(
        "--draft",
        metavar="auto|off|heads|lookup|FILE",
        help="Guess tokens ahead: by the model's own heads, from the text so far, or by a smaller model. "
        "It changes the speed alone. auto: heads, else lookup.",
    ),
]
DraftMax = Annotated[
    int | None,
    typer.Option(
        "--draft-max",
        "--draft-n",
        "--spec-draft-n-max",
        metavar="N",
        help="Tokens guessed at a time, at most; as many as pay are.",
        min=0,
    ),
]
MaxTokens = Annotated[int | None, typer.Option("-n", "--n-predict", metavar="N", help="Tokens to generate at most.")]
Temperature = Annotated[float, typer.Option("--temp", "--temperature", help="0 is greedy.")]
TopK = Annotated[int, typer.Option("--top-k", help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option("--top-p", help="Keep the likeliest tokens up to this probability.")]
MinP = Annotated[float, typer.Option("--min-p", help="Keep tokens at least this fraction as likely as the likeliest.")]
TypicalP = Annotated[float, typer.Option("--typical", help="Locally typical sampling up to this probability.")]
RepeatPenalty = Annotated[float, typer.Option("--repeat-penalty", help="Penalise recent tokens; 1 is off.")]
PresencePenalty = Annotated[float, typer.Option("--presence-penalty", help="Subtracted from tokens already used.")]
FrequencyPenalty = Annotated[float, typer.Option("--frequency-penalty", help="Subtracted once per use.")]
DryMultiplier = Annotated[float, typer.Option("--dry-multiplier", help="Penalise repetitions; 0 is off.")]
DryBase = Annotated[float, typer.Option("--dry-base", help="By how much, for each token a repetition is longer.")]
DryAllowedLength = Annotated[int, typer.Option("--dry-allowed-length", help="Tokens that may repeat.")]
DryPenaltyLastN = Annotated[int, typer.Option("--dry-penalty-last-n", help="Tokens it looks back; -1: all.")]
DrySequenceBreakers = Annotated[
    list[str] | None, typer.Option("--dry-sequence-breaker", help="Text that no repetition crosses; may be repeated.")
]
XtcProbability = Annotated[float, typer.Option("--xtc-probability", help="Leave out the likeliest this often.")]
XtcThreshold = Annotated[float, typer.Option("--xtc-threshold", help="Of those at least this likely, all but one.")]
TopNSigma = Annotated[
    float, typer.Option("--top-nsigma", "--top-n-sigma", help="Keep logits within so many deviations; -1: all.")
]
DynatempRange = Annotated[float, typer.Option("--dynatemp-range", help="The temperature follows the entropy so far.")]
DynatempExponent = Annotated[float, typer.Option("--dynatemp-exp", help="How it follows.")]
MirostatVersion = Annotated[int, typer.Option("--mirostat", help="1 or 2: a steady surprise, in place of filters.")]
MirostatTau = Annotated[float, typer.Option("--mirostat-ent", help="The surprise it aims at, in bits.")]
MirostatEta = Annotated[float, typer.Option("--mirostat-lr", help="How fast it gets there.")]
Samplers = Annotated[
    str | None, typer.Option("--samplers", metavar="A;B", help="Steps of sampling, in this order. Default: all.")
]
SamplingSequence = Annotated[
    str | None, typer.Option("--sampling-seq", "--sampler-seq", metavar="AB", help="The same by letters: edskypmxt.")
]
Seed = Annotated[int | None, typer.Option("-s", "--seed", help="Makes sampling repeatable.")]


def load(model: str | None, stopping: threading.Event | None = None, **arguments: Any) -> LLM:
    """`LLM`, with a progress bar on stderr while weights are read (in a terminal).

    Raises:
        StrideError: the model cannot be loaded, or ``stopping`` was set meanwhile.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from stride.api import LLM

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("reading weights"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("weights", total=None)

        def progress(done: int, total: int) -> None:
            if stopping is not None and stopping.is_set():
                raise StrideError("stopped while weights were read")
            bar.update(task, completed=done, total=total)

        llm = LLM(model, progress=progress, **arguments)
    for note in llm.notes:
        print(f"stride: {note}", file=sys.stderr)
    if (expectation := llm.expectation()) is not None:
        print(f"stride: {expectation}", file=sys.stderr)
    return llm


def drafting(draft: str, draft_max: int | None, model: str | None = None, kinds: str | None = None) -> dict[str, Any]:
    """Arguments of `LLM`, from our options and llama-server's, whose ``--draft N`` is our ``--draft-max``.

    Args:
        draft: ``--draft``.
        draft_max: ``--draft-max``.
        model: ``--model-draft``.
        kinds: ``--spec-type``.

    Raises:
        RequestError: an unknown kind.
    """
    from stride.errors import RequestError

    if draft.isdecimal():
        draft, draft_max = "auto", int(draft) if draft_max is None else draft_max
    if draft == "auto" and model is not None:
        draft = model
    elif draft == "auto" and kinds is not None:
        found = {kind.split("-")[-1] if "mtp" in kind else kind.split("-")[0] for kind in kinds.split(",")}
        names = {"none": "off", "mtp": "heads", "ngram": "lookup", "draft": "auto"}
        if unknown := found - names.keys():
            raise RequestError(
                f"--spec-type {kinds}: {unknown.pop()} is none of none, draft-mtp, ngram-*", field="draft"
            )
        draft = next(name for kind, name in names.items() if kind in found)
    return {"draft": draft, "draft_max": draft_max}


def json_object(text: str, name: str) -> dict[str, Any]:
    """A JSON object from the command line.

    Raises:
        RequestError: it is none; names the option.
    """
    from stride.errors import RequestError

    try:
        value = json.loads(text)
    except ValueError as error:
        raise RequestError(f"{name} is no JSON: {error}", field=name) from None
    if not isinstance(value, dict):
        raise RequestError(f"{name} must be a JSON object", field=name)
    return value


def print_streaming(counts: StreamCounts, n_tokens: int | None = None) -> None:
    """One line on stderr: how experts on disk were used, and waited for; by token, where it is said for how many."""
    each = "" if n_tokens is None else f" for each of {n_tokens} tokens"
    came_true = f", {counts.came_true / counts.expected:.0%} of those read ahead were used" if counts.expected else ""
    print(
        f"experts on disk: {counts.hit_rate:.0%} found in memory, "
        f"{counts.read_bytes / (n_tokens or 1) / 1e6:.0f} MB read{each}, "
        f"{counts.waited_seconds:.2f} s waited for the disk{came_true}; "
        f"{counts.n_slots * counts.slot_bytes / 2**30:.1f} GiB hold {counts.n_slots} of {counts.n_experts}",
        file=sys.stderr,
    )


def print_timings(timings: Any) -> None:
    """One line on stderr: prompt and generation counts and rates."""
    print(
        f"\nprompt {timings.prompt_n} tokens in {timings.prompt_ms / 1e3:.2f} s "
        f"({timings.prompt_per_second:.1f} tok/s), "
        f"generated {timings.predicted_n} in {timings.predicted_ms / 1e3:.2f} s "
        f"({timings.decoded_per_second:.1f} tok/s)"
        + (f", {timings.draft_n_accepted} of {timings.draft_n} guessed right" if timings.draft_n else ""),
        file=sys.stderr,
    )
