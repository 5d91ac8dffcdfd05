"""`LLM`: a model file, its tokenizer, its chat format and the engine, composed. The same object serves the command
line, Python and HTTP."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args, overload

from stride import __version__, memory, ops
from stride.chat.answer_grammar import answer_grammar, text_grammar
from stride.chat.constraints import FIELDS, NO_CONSTRAINTS, Constraints, TextFormat, read_constraints
from stride.chat.grammar import GrammarCompiler
from stride.chat.messages import message as as_message
from stride.chat.messages import tool as as_tool
from stride.chat.parsers import detect_format
from stride.chat.reasoning import EFFORT_BUDGETS, ThoughtBudget
from stride.chat.stream import StreamParser
from stride.chat.template import ChatTemplate, RenderedPrompt, builtin
from stride.chat.tokenizer import Tokenizer
from stride.engine import Engine, EngineConfig
from stride.errors import (
    GenerationError,
    InsufficientMemoryError,
    ModelFileError,
    RequestError,
    UnsupportedError,
)
from stride.gguf import GGUFFile, Metadata, census, fingerprint, open_gguf
from stride.memory import Plan, Wishes
from stride.models import Decoder, Session, load_model, logits, read_config
from stride.models.load import Progress
from stride.ops.api import Backend, FloatArray, KVType
from stride.stream import Stream
from stride.types import Completion, LogitsMask, Message, SamplingParams, Tool

MAX_TOOLS = 512
"""Tools of one request: their grammar takes a quarter of a second to compile then."""


class LLM:
    """A model, ready to generate.

    Args:
        model: a GGUF file, any part of a split one, its folder, or the name of a pulled repository; None is the
            embedded demo model.
        backend: auto, cpu or numpy.
        n_ctx: tokens of context for each sequence; 0 is all that the model knows and that fits in memory, None is
            8192, or less where that does not fit.
        n_parallel: sequences that generate side by side; more wait in a queue. None is 4, or what fits.
        threads: of the backend; None is one for each core.
        kv_type: how keys and values are kept: f32, f16, q8_0, or auto: f16 where it fits, else q8_0.
        chat_template: Jinja source to use instead of the file's.
        max_queue: requests that may wait.
        queue_seconds: how long a request may wait.
        request_seconds: how long a request may take.
        cache_ram: MiB of memory for the keys and values of earlier prompts and answers, so that what begins like them
            starts sooner; 0 is none, -1 all that is left, None at most 8192 and half of what is left.
        cache_dir: a folder in which they outlive this object.
        progress: called with (bytes read, bytes in all) while weights are read.
        planned: called with the plan of memory before weights are read.

    Raises:
        RequestError: an argument that is not what it must be; names it.
        ModelFileError: the file is not what it must be.
        UnsupportedError: the file asks for something that Stride does not do.
        InsufficientMemoryError: the model does not fit; nothing has been read then.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        backend: str = "auto",
        n_ctx: int | None = None,
        *,
        n_parallel: int | None = 1,
        threads: int | None = None,
        kv_type: KVType | Literal["auto"] = "auto",
        chat_template: str | None = None,
        max_queue: int = 64,
        queue_seconds: float = math.inf,
        request_seconds: float = math.inf,
        cache_ram: int | None = None,
        cache_dir: str | Path | None = None,
        progress: Progress | None = None,
        planned: Callable[[Plan], None] | None = None,
    ) -> None:
        kinds = (*get_args(KVType), "auto")
        if kv_type not in kinds:
            raise RequestError(f"kv_type is {kv_type!r}, but must be one of {', '.join(kinds)}", field="kv_type")
        if threads is not None and not (isinstance(threads, int) and threads > 0):
            raise RequestError(f"threads is {threads!r}, but must be a positive integer", field="threads")
        if cache_ram is not None and not (isinstance(cache_ram, int) and cache_ram >= -1):
            raise RequestError(f"cache_ram is {cache_ram!r}, but must be an integer of at least -1", field="cache_ram")
        self.path = model_path(model)
        self.cache_scope = ""
        with ExitStack() as opened:
            self._file = opened.enter_context(open_gguf(self.path))
            self.config = read_config(self._file)
            self.tokenizer = _tokenizer(self._file)
            self._asked_n_ctx = n_ctx
            self.template = _template(self._file.metadata, self.tokenizer, chat_template)
            opened.callback(self.template.close)
            self.tool_format = detect_format(self.template.source, self.config.architecture)
            self.grammars = GrammarCompiler(self.tokenizer, self.tool_format.shown_tokens)
            self._text_grammars = GrammarCompiler(self.tokenizer, ())
            self.backend = ops.load(backend, threads, self._file.paths)
            prefixes = cache_ram if cache_ram is None or cache_ram < 0 else cache_ram << 20
            self.plan = self._plan(Wishes(n_ctx, n_parallel, kv_type, prefixes))
            self.n_ctx, self.kv_type = self.plan.n_ctx, self.plan.kv_type
            engine_config = EngineConfig(
                n_ctx=self.n_ctx,
                n_parallel=self.plan.n_parallel,
                kv_type=self.kv_type,
                max_queue=max_queue,
                queue_seconds=queue_seconds,
                request_seconds=request_seconds,
                cache_bytes=self.plan.prefixes,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                cache_identity=self._cache_identity() if cache_dir is not None else "",
            )
            if planned is not None:
                planned(self.plan)
            room = memory.Room(self.config, self.kv_type)
            opened.callback(room.close)
            try:
                self._loaded: Decoder | None = load_model(self._file, self.backend, progress)
                self.engine = Engine(self._loaded, engine_config, room)
            except MemoryError as error:
                raise InsufficientMemoryError(
                    f"{self.path}: the system gave less memory than it said was available", could_ever_fit=True
                ) from error
            self._opened = opened.pop_all()  # from here on `close` does it

    def _cache_identity(self) -> str:
        """Whatever keys and values depend on besides the tokens: program, computation, type, and the model's bytes."""
        parts = (__version__, self.backend.name, self.kv_type, self.config.windows, fingerprint(self._file.paths))
        return repr(parts)

    def _plan(self, wishes: Wishes) -> Plan:
        """How this model is to be run here; errors name the file."""
        weights = self.backend.held_bytes(*self._file.tensors.values())
        try:
            return memory.plan(self.config, weights, wishes, EngineConfig().chunk, memory.machine_memory())
        except InsufficientMemoryError as error:
            raise InsufficientMemoryError(
                f"{self.path} does not fit: {error}", could_ever_fit=error.could_ever_fit
            ) from None

    # --- generation ---

    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[False] = False, **options: Any
    ) -> Completion: ...

    @overload
    def generate(self, prompt: str | Sequence[int], *, stream: Literal[True], **options: Any) -> Stream: ...

    def generate(self, prompt: str | Sequence[int], *, stream: bool = False, **options: Any) -> Completion | Stream:
        """Continue a text or token ids as they stand.

        ``options`` are the fields of `SamplingParams`, and one of json_schema, regex and grammar, which the text must
        match.

        Raises:
            RequestError: a bad parameter, an empty prompt, or one that does not fit the context.
        """
        constraints, sampling = _split_options(options)
        events = self.stream(prompt, sampling_params(sampling), constraints.text)
        return events if stream else events.result()

    @overload
    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        *,
        stream: Literal[False] = False,
        **options: Any,
    ) -> Completion: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        *,
        stream: Literal[True],
        **options: Any,
    ) -> Stream: ...

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        *,
        stream: bool = False,
        **options: Any,
    ) -> Completion | Stream:
        """The next turn of a conversation; messages and tools as OpenAI's dictionaries or Stride's own types.

        ``options`` are the fields of `SamplingParams` and of OpenAI's chat requests that say what the answer must be:
        tool_choice, parallel_tool_calls, response_format, json_schema, regex, grammar, reasoning_effort and
        reasoning_budget.

        Raises:
            RequestError: a bad message, tool or parameter, or a conversation that does not fit the context.
        """
        constraints, sampling = _split_options(options)
        events = self.chat_stream(messages, tools or (), sampling_params(sampling), constraints=constraints)
        return events if stream else events.result()

    def stream(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        text_format: TextFormat | None = None,
    ) -> Stream:
        """`generate` as a stream of events, all of them content, which as a whole matches ``text_format``."""
        ids = self.tokenize(prompt) if isinstance(prompt, str) and prompt else _token_ids(prompt, "prompt")
        mask = None
        if text_format is not None:
            mask = self._text_grammars.mask(text_grammar(text_format), text_format.field)
        return Stream(
            self.engine, self.tokenizer, ids, params or SamplingParams(), mask=mask, cache_scope=self.cache_scope
        )

    def chat_stream(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        params: SamplingParams | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> Stream:
        """`chat` as a stream of events: reasoning, content and tool calls, then one Finish."""
        if not messages:
            raise RequestError("there are no messages", field="messages")
        if len(tools) > MAX_TOOLS:
            raise RequestError(f"tools are {len(tools)}, but may be {MAX_TOOLS} at most", field="tools")
        if constraints.tool_choice == "none":
            tools = ()
        variables = {**_effort_variables(constraints), **(template_kwargs or {})}
        rendered, offered = self._render(messages, tools, variables)
        in_reasoning = self.tool_format.starts_in_reasoning(rendered.text)
        mask = self._mask(offered, constraints, in_reasoning)
        constrained = bool(offered) and bool(self.tool_format.shapes)
        parser = StreamParser(self.tool_format, offered, in_reasoning, constrained=constrained)
        ids = self.tokenizer.encode_prompt(rendered.pieces)
        return Stream(self.engine, self.tokenizer, ids, params or SamplingParams(), parser, mask, self.cache_scope)

    def _mask(self, tools: Sequence[Tool], constraints: Constraints, in_reasoning: bool) -> LogitsMask | None:
        """What keeps an answer to what is asked of it, if anything is.

        Raises:
            RequestError: it cannot be enforced; names the field.
        """
        mask: LogitsMask | None = None
        grammar = answer_grammar(self.tool_format, tools, constraints, in_reasoning)
        if grammar is not None:
            if constraints.text is not None:  # alone: an error of it is not the tools', and no thought comes first
                self._text_grammars.mask(text_grammar(constraints.text), constraints.text.field)
            field = constraints.text.field if constraints.text is not None and not tools else "tools"
            try:
                mask = self.grammars.mask(grammar, field)
            except RequestError:
                self._blame_tool(tools)
                raise
        budget = constraints.reasoning_budget
        if budget is None and constraints.reasoning_effort and "reasoning_effort" not in self.template.source:
            budget = EFFORT_BUDGETS[constraints.reasoning_effort]
        if budget is None or self.tool_format.reasoning is None:
            return mask
        return ThoughtBudget(mask, budget, self.tokenizer, self.tool_format, tools, in_reasoning)

    def _blame_tool(self, tools: Sequence[Tool]) -> None:
        """Find the tool that cannot be enforced, by halves: each is as many tools to compile.

        Raises:
            RequestError: names it.
        """
        while tools:
            half = tools[: (len(tools) + 1) // 2]
            grammar = answer_grammar(self.tool_format, half, Constraints("required"), in_reasoning=False)
            assert grammar is not None
            try:
                self.grammars.mask(grammar, "tools", repr(half[0].name))
            except RequestError:
                if len(tools) == 1:
                    raise
                tools = half
            else:
                tools = tools[len(half) :]

    def scoped(self, cache_scope: str) -> Self:
        """The same model for one user: requests share prompts, and what their times tell, only within a scope."""
        other = copy.copy(self)
        other.cache_scope = cache_scope
        return other

    # --- text and numbers ---

    def apply_template(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt that `chat` would run, as text; ``kwargs`` go to the template."""
        return self._render(messages, tools or (), kwargs)[0].text

    def count_tokens(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> int:
        """Tokens of the prompt that `chat_stream` would run."""
        offered = () if constraints.tool_choice == "none" else tools
        effort = constraints.reasoning_effort
        variables = {} if effort is None else {"reasoning_effort": effort}
        rendered, _ = self._render(messages, offered, {**variables, **(template_kwargs or {})})
        return len(self.tokenizer.encode_prompt(rendered.pieces))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, in which special tokens are recognised; BOS first where the model wants it."""
        ids = self.tokenizer.encode(text, special=True)
        bos = self.tokenizer.bos_id
        if self.tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return self.tokenizer.decode(ids, special=True)

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Logits after each token of a sequence: float32 [n_tokens, n_vocab].

        Raises:
            RequestError: no tokens, or one that is not in the vocabulary.
        """
        ids = _token_ids(token_ids, "token_ids")
        if not all(0 <= i < self.config.n_vocab for i in ids):
            raise RequestError(f"token_ids must be token ids from 0 to {self.config.n_vocab - 1}", field="token_ids")
        return self.engine.exclusively(lambda: logits(self._decoder, ids, self.kv_type))

    def session(self, n_ctx: int, backend: Backend | None = None) -> Session:
        """A sequence of its own beside the engine, for measuring; only while nothing is being generated.

        ``backend`` may stand in for the model's own, such as a `Profiler` of it.
        """
        decoder = self._decoder if backend is None else self._decoder.on(backend)
        return Session(decoder, n_ctx, self.kv_type)

    def _render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> tuple[RenderedPrompt, list[Tool]]:
        """The prompt of a conversation, and the tools that it offers."""
        offered = [as_tool(tool) for tool in tools]
        return self.template.render([as_message(m) for m in messages], offered, **template_kwargs), offered

    @property
    def _decoder(self) -> Decoder:
        if self._loaded is None:
            raise GenerationError("the model is closed")
        return self._loaded

    @property
    def name(self) -> str:
        """The model's name, for people."""
        return self.config.name

    @property
    def notes(self) -> list[str]:
        """What people should know about how this model was loaded, such as types that were converted."""
        notes = list(self.backend.notes)
        if self._asked_n_ctx and self._asked_n_ctx > self.n_ctx:
            notes.append(f"the context is {self.n_ctx} tokens, all that the model was made for")
        return notes

    @property
    def info(self) -> dict[str, Any]:
        """Facts for reports and `/props`."""
        return {
            "name": self.name,
            "path": str(self.path),
            "architecture": self.config.architecture,
            "quantization": census.grouped(self._file.tensors.values(), lambda tensor: tensor.type.label)[0].label,
            "n_vocab": self.config.n_vocab,
            "n_ctx": self.n_ctx,
            "n_ctx_train": self.config.context_length,
            "n_params": sum(math.prod(tensor.shape) for tensor in self._file.tensors.values()),
            "file_bytes": self._file.n_bytes,
            "kv_bytes": self.plan.cache,
            "kv_type": self.kv_type,
            "n_parallel": self.engine.config.n_parallel,
            "n_batch": self.engine.config.chunk,
            "backend": self.backend.name,
            "n_threads": self.backend.n_threads,
        }

    def close(self) -> None:
        """Stop generating and give the memory back; requests under way fail."""
        self.engine.close()
        self._loaded = None
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _split_options(options: Mapping[str, Any]) -> tuple[Constraints, dict[str, Any]]:
    """What the answer must be, and the sampling parameters."""
    sampling = {name: value for name, value in options.items() if name not in FIELDS}
    return read_constraints(options), sampling


def _effort_variables(constraints: Constraints) -> dict[str, Any]:
    """What the chat template hears of the effort: its name, and the switch that many templates have."""
    effort = constraints.reasoning_effort
    if effort is None:
        return {}
    return {"reasoning_effort": effort, **({"enable_thinking": False} if effort == "none" else {})}


def sampling_params(fields: Mapping[str, Any]) -> SamplingParams:
    """`SamplingParams` from keywords; None means the default, one stop string may stand alone.

    As in llama.cpp, -1 means no limit (``max_tokens``), a random one (``seed``) and off (``top_k``, ``top_n_sigma``).

    Raises:
        RequestError: a field that does not exist, or a value out of range.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    known = SamplingParams.__dataclass_fields__
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        name = unknown[0]
        raise RequestError(f"there is no sampling parameter {name!r}; there are: {', '.join(known)}", field=name)
    for name in ("max_tokens", "seed"):
        if given.get(name) == -1:
            del given[name]
    for name in ("top_k", "top_n_sigma"):
        if given.get(name) == -1:
            given[name] = 0
    for name in ("stop", "dry_sequence_breakers"):
        texts = given.get(name)
        if isinstance(texts, Sequence):
            given[name] = (texts,) if isinstance(texts, str) else tuple(texts)
    return SamplingParams(**given)


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


def _token_ids(values: Iterable[Any], name: str) -> list[int]:
    """Token ids from whatever holds them, arrays too.

    Raises:
        RequestError: there are none, or they are no integers; names the argument.
    """
    try:
        ids = [operator.index(value) for value in values]
    except TypeError:
        raise RequestError(f"{name} must be made of token ids, which are integers", field=name) from None
    if not ids:
        raise RequestError(f"{name} is empty", field=name)
    return ids


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
