"""From a model's name to all that runs it: file, configuration, tokenizer, template, backend, plan, decoder, engine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Literal, get_args

from stride import __version__, memory, ops
from stride.chat.masks import AnswerMasks
from stride.chat.parsers import ToolFormat, detect_format
from stride.chat.template import ChatTemplate, builtin
from stride.chat.tokenizer import Tokenizer
from stride.drafting import DRAFTS, Choice, choose
from stride.embeddings import check_pooling
from stride.engine import Engine, EngineConfig
from stride.errors import InsufficientMemoryError, ModelFileError, RequestError, UnsupportedError
from stride.experts import saved
from stride.experts.policy import DEFAULT
from stride.gguf import GGUFFile, Metadata, fingerprint, open_gguf
from stride.memory import Experts, Plan, Wishes
from stride.models import Decoder, check_model, load_model
from stride.models.config import ModelConfig, MoeConfig
from stride.models.load import Progress, routed_experts, tensors_of
from stride.ops.api import Backend, KVType
from stride.ops.expert_cache import least_slots
from stride.types import Pooling


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a model is loaded with; see `stride.LLM`, whose arguments these are.

    Raises:
        RequestError: a value that is not what it must be; names it.
    """

    model: str | Path | None = None
    backend: str = "auto"
    n_ctx: int | None = None
    n_parallel: int | None = 1
    threads: int | None = None
    kv_type: KVType | Literal["auto"] = "auto"
    memory: int | str | None = None
    chat_template: str | None = None
    max_queue: int = 64
    queue_seconds: float = math.inf
    request_seconds: float = math.inf
    cache_ram: int | None = None
    cache_dir: str | Path | None = None
    draft: str | Path = "auto"
    draft_max: int | None = None
    pooling: Pooling | None = None
    progress: Progress | None = None
    planned: Callable[[Plan], None] | None = None

    def __post_init__(self) -> None:
        self._require("model", self.model is None or isinstance(self.model, str | Path), "a path or a name")
        self._require("backend", isinstance(self.backend, str), "a name")
        self._require_integer("n_ctx", 0)
        self._require_integer("n_parallel", 1)
        self._require_integer("threads", 1)
        self._require_integer("max_queue", 0, optional=False)
        self._require_integer("cache_ram", -1)
        drafts = isinstance(self.draft, str | Path) and self.draft != ""
        self._require("draft", drafts, f"{', '.join(DRAFTS)} or a file")
        self._require_integer("draft_max", 0)
        for name in ("queue_seconds", "request_seconds"):
            seconds = getattr(self, name)
            # of not a number, no comparison is true
            self._require(
                name, isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0, "above 0"
            )
        if isinstance(self.memory, str):
            memory.parse_size(self.memory)  # or says what is wrong
        else:
            self._require_integer("memory", 1)
        kinds = (*get_args(KVType), "auto")
        self._require("kv_type", self.kv_type in kinds, f"one of {', '.join(kinds)}")
        template = self.chat_template
        self._require("chat_template", template is None or isinstance(template, str), "Jinja source")
        folder = self.cache_dir
        self._require("cache_dir", folder is None or isinstance(folder, str | Path), "a folder")
        if self.pooling is not None:
            check_pooling(self.pooling)

    def _require_integer(self, name: str, least: int, *, optional: bool = True) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        self._require(name, isinstance(value, Integral) and not isinstance(value, bool), "an integer")
        self._require(name, value >= least, f"at least {least}")

    def _require(self, name: str, condition: bool, what: str) -> None:
        if not condition:
            raise RequestError(f"{name} is {getattr(self, name)!r}, but must be {what}", field=name)


@dataclass(slots=True)
class Loaded:
    """A model that is ready, with all its parts; `close` ends them. ``decoder`` is None then."""

    options: LoadOptions
    path: Path
    file: GGUFFile
    config: ModelConfig
    pooling: Pooling
    tokenizer: Tokenizer
    template: ChatTemplate
    tool_format: ToolFormat
    masks: AnswerMasks
    backend: Backend
    plan: Plan
    drafting: Choice
    engine: Engine
    decoder: Decoder | None
    opened: ExitStack

    def close(self) -> None:
        """Stop generating and give the memory back; requests under way fail."""
        self.engine.close()
        self.decoder = None
        self.opened.close()


def load(options: LoadOptions) -> Loaded:
    """Load a model.

    Raises:
        StrideError: see `stride.LLM`.
    """
    path = model_path(options.model)
    with ExitStack() as opened:
        file = opened.enter_context(open_gguf(path))
        config = check_model(file)
        tokenizer = _tokenizer(file)
        template = _template(file.metadata, tokenizer, options.chat_template)
        opened.callback(template.close)
        tool_format = detect_format(template.source, config.architecture)
        backend = ops.load(options.backend, options.threads, file.paths)
        opened.callback(backend.close)
        drafting = choose(options.draft, options.draft_max, file, config, opened)
        if drafting.kind != "heads":
            config = dataclasses.replace(config, draft_layers=())
        plan = _plan(options, file, config, backend, drafting)
        engine_config = EngineConfig(
            n_ctx=plan.n_ctx,
            n_parallel=plan.n_parallel,
            chunk=plan.chunk,
            kv_type=plan.kv_type,
            max_queue=options.max_queue,
            queue_seconds=options.queue_seconds,
            request_seconds=options.request_seconds,
            draft_max=drafting.n_most,
            cache_bytes=plan.prefixes,
            cache_dir=None if options.cache_dir is None else Path(options.cache_dir),
            cache_identity="" if options.cache_dir is None else _cache_identity(file, config, backend, plan.kv_type),
        )
        if options.planned is not None:
            options.planned(plan)
        room = memory.Room(config, plan.kv_type)
        opened.callback(room.close)
        try:
            if plan.streamed:
                _stream_experts(file, config, backend, plan)
            decoder = load_model(file, backend, options.progress, heads=drafting.kind == "heads")
            engine = Engine(decoder, engine_config, room, drafting.drafter(backend, engine_config))
        except MemoryError as error:
            raise InsufficientMemoryError(
                f"{path}: the system gave less memory than it said was available", could_ever_fit=True
            ) from error
        return Loaded(
            options=options,
            path=path,
            file=file,
            config=config,
            pooling=options.pooling or config.pooling or "last",
            tokenizer=tokenizer,
            template=template,
            tool_format=tool_format,
            masks=AnswerMasks(tokenizer, tool_format, "reasoning_effort" in template.source),
            backend=backend,
            plan=plan,
            drafting=drafting,
            engine=engine,
            decoder=decoder,
            opened=opened.pop_all(),  # from here on `Loaded.close` does it
        )


def model_path(model: str | Path | None) -> Path:
    """Where a model lies: a path, a pulled repository's file, or, for None, the embedded demo model.

    Raises:
        RequestError: an empty name.
        StrideError: there is none of that name.
    """
    if model is None:
        from stride import demo

        return demo.path()
    if model == "":
        raise RequestError("model is empty, but must be a file, a folder or a pulled repository", field="model")
    from stride import hub

    return hub.resolve(str(model))


def _plan(options: LoadOptions, file: GGUFFile, config: ModelConfig, backend: Backend, drafting: Choice) -> Plan:
    """How this model is to be run here; errors name the file."""
    weights = backend.held_bytes(*tensors_of(config, file))
    prefixes = options.cache_ram
    if prefixes is not None and prefixes > 0:
        prefixes <<= 20
    draft_model = None
    if drafting.model is not None:
        smaller, draft_config = drafting.model
        draft_model = draft_config, backend.held_bytes(*tensors_of(draft_config, smaller))
    wishes = Wishes(options.n_ctx, options.n_parallel, options.kv_type, prefixes, drafting.n_most, draft_model)
    budget = memory.parse_size(options.memory) if isinstance(options.memory, str) else options.memory
    available = memory.within(memory.machine_memory(), budget)
    experts = _experts(options, file, config, backend)
    try:
        plan = memory.plan(config, weights, wishes, EngineConfig().chunk, available, experts)
        return dataclasses.replace(plan, drafting=drafting.told)
    except InsufficientMemoryError as error:
        raise InsufficientMemoryError(
            f"{file.paths[0]} does not fit: {error}", could_ever_fit=error.could_ever_fit
        ) from None


def _experts(options: LoadOptions, file: GGUFFile, config: ModelConfig, backend: Backend) -> Experts | None:
    """What streaming the routed experts would take; None where there are none, or they must be in memory."""
    layers = routed_experts(file, config)
    if not layers:
        return None
    try:
        slot_bytes = backend.expert_bytes(layers)
    except UnsupportedError:
        return None
    stacks = [tensor for layer in layers for tensor in layer]
    count = sum(layer[0].shape[0] for layer in layers)
    margin = memory.STREAM_MARGIN if options.memory is None else 0
    return Experts(backend.held_bytes(*stacks), count, slot_bytes, least_slots(_most_chosen(config)), margin)


def _stream_experts(file: GGUFFile, config: ModelConfig, backend: Backend, plan: Plan) -> None:
    layers = routed_experts(file, config)
    choice = DEFAULT
    if config.experts is not None:
        choice = saved.policy_for(config.experts, plan.streamed // backend.expert_bytes(layers))
    backend.stream_experts(
        layers, plan.streamed, _most_chosen(config), choice, lambda: memory.machine_memory().available
    )


def _most_chosen(config: ModelConfig) -> int:
    """Experts that a token uses in one layer, at most."""
    layers = (*config.layers, *config.draft_layers)
    return max((layer.ffn.top_k for layer in layers if isinstance(layer.ffn, MoeConfig)), default=0)


def _cache_identity(file: GGUFFile, config: ModelConfig, backend: Backend, kv_type: KVType) -> str:
    """Whatever keys and values depend on besides the tokens: program, computation, type, and the model's bytes. How
    many threads share the computation is not among it."""
    layers = (config.windows, len(config.draft_layers))
    return repr((__version__, backend.computation, kv_type, layers, fingerprint(file.paths)))


def _tokenizer(file: GGUFFile) -> Tokenizer:
    """The file's tokenizer, whose errors name the file."""
    try:
        return Tokenizer.from_metadata(file.metadata)
    except ModelFileError as error:
        raise ModelFileError(error.reason, path=file.paths[0]) from error
    except UnsupportedError as error:
        raise UnsupportedError(f"{file.paths[0]}: {error}") from error


def _template(metadata: Metadata, tokenizer: Tokenizer, source: str | None) -> ChatTemplate:
    """The template given, the file's own, or the architecture's."""
    if source is None:
        source = metadata.string("tokenizer.chat_template", default="")
    if not source:
        source = builtin("step35" if metadata.string("general.architecture") == "step35" else "chatml")
    return ChatTemplate(source, tokenizer.bos_token, tokenizer.eos_token, tokenizer.special_tokens)
