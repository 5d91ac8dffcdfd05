"""`LLM`: a model file, its tokenizer, its chat format and the engine, composed. The same object serves the command
line, Python and HTTP."""

from __future__ import annotations

import copy
import math
import operator
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args, overload

import numpy as np

from stride import __version__, memory, ops
from stride.chat.constraints import FIELDS, NO_CONSTRAINTS, Constraints, TextFormat, read_constraints
from stride.chat.masks import AnswerMasks
from stride.chat.messages import message as as_message
from stride.chat.messages import tool as as_tool
from stride.chat.parsers import detect_format
from stride.chat.parsers.format import THINK
from stride.chat.reasoning import effort_variables
from stride.chat.stream import StreamParser
from stride.chat.template import ChatTemplate, RenderedPrompt, builtin
from stride.chat.tokenizer import Tokenizer
from stride.embeddings import EUCLIDEAN, Embeddings, check_pooling, normalized
from stride.engine import Engine, EngineConfig
from stride.errors import (
    ContextOverflowError,
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
from stride.ops.api import Backend, FloatArray, IntArray, KVType
from stride.stream import Stream
from stride.types import Completion, LogitsMask, Message, Pooling, Prompt, SamplingParams, Tool, sampling_params

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
        pooling: what vectors of texts are made of: the mean of their tokens' hidden states, the first one's (cls), or
            the last one's; None is what the file says, or last where it says nothing.
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
        pooling: Pooling | None = None,
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
        chosen = None if pooling is None else check_pooling(pooling)
        self.path = model_path(model)
        self.cache_scope = ""
        self._group: str | None = None
        with ExitStack() as opened:
            self._file = opened.enter_context(open_gguf(self.path))
            self.config = read_config(self._file)
            self.pooling: Pooling = chosen or self.config.pooling or "last"
            self.tokenizer = _tokenizer(self._file)
            self._asked_n_ctx = n_ctx
            self.template = _template(self._file.metadata, self.tokenizer, chat_template)
            opened.callback(self.template.close)
            self.tool_format = detect_format(self.template.source, self.config.architecture)
            knows_efforts = "reasoning_effort" in self.template.source
            self.masks = AnswerMasks(self.tokenizer, self.tool_format, knows_efforts)
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
        """The next turn of a conversation; messages and tools as OpenAI's dictionaries or Stride's own types. A last
        message of the assistant's is continued.

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
        *,
        prompt_logprobs: bool = False,
    ) -> Stream:
        """`generate` as a stream of events, all of them content, which as a whole matches ``text_format``.

        ``prompt_logprobs``: the prompt's tokens are told first, with what ``params.logprobs`` asks for; none of the
        first, and nothing of a BOS that is put before a text.
        """
        if isinstance(prompt, str):
            self.check_length(prompt)
        ids = self.tokenize(prompt) if isinstance(prompt, str) and prompt else _token_ids(prompt, "prompt")
        mask = None if text_format is None else self.masks.text(text_format, self.cache_scope)
        adds_bos = isinstance(prompt, str) and self._puts_bos_before(prompt)
        return self._started(ids, params, None, mask, int(adds_bos) if prompt_logprobs else None)

    def _puts_bos_before(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return self.tokenizer.add_bos and self.tokenizer.bos_id is not None and not text.startswith(bos)

    def chat_stream(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        params: SamplingParams | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> Stream:
        """`chat` as a stream of events: reasoning, content and tool calls, then one Finish.

        Where the last message is the assistant's, the events continue it; ``add_generation_prompt`` among
        ``template_kwargs`` says otherwise.
        """
        if not messages:
            raise RequestError("there are no messages", field="messages")
        if len(tools) > MAX_TOOLS:
            raise RequestError(f"tools are {len(tools)}, but may be {MAX_TOOLS} at most", field="tools")
        rendered, offered = self._conversation(messages, tools, template_kwargs, constraints)
        self.check_length(rendered.text)
        continues = rendered.continues is not None
        if continues:
            in_reasoning = rendered.continues == "reasoning"
        else:
            in_reasoning = self.tool_format.starts_in_reasoning(rendered.text)
        if rendered.continues == "content":
            constraints = _for_the_rest(constraints)
        mask = self.masks.answer(offered, constraints, in_reasoning, self.cache_scope)
        constrained = bool(offered) and bool(self.tool_format.shapes)
        parser = StreamParser(
            self.tool_format,
            offered,
            in_reasoning,
            constrained=constrained,
            formatted=constraints.text is not None,
            continues=continues,
        )
        ids = self.tokenizer.encode_prompt(rendered.pieces)
        return self._started(ids, params, parser, mask)

    def _started(
        self,
        ids: list[int],
        params: SamplingParams | None,
        parser: StreamParser | None,
        mask: LogitsMask | None,
        tell_prompt_from: int | None = None,
    ) -> Stream:
        return Stream(
            self.engine,
            self.tokenizer,
            ids,
            params or SamplingParams(),
            parser,
            mask,
            self.cache_scope,
            self._group,
            tell_prompt_from,
        )

    def scoped(self, cache_scope: str) -> Self:
        """The same model for one user: requests share prompts, and what their times tell, only within a scope."""
        other = copy.copy(self)
        other.cache_scope = cache_scope
        return other

    def grouped(self) -> Self:
        """The same model for requests of one prompt, which they compute once, whether or not prompts are kept."""
        other = copy.copy(self)
        other._group = uuid.uuid4().hex
        return other

    # --- vectors ---

    def embed(self, texts: Prompt | Sequence[Prompt], *, norm: int = EUCLIDEAN) -> FloatArray:
        """What texts mean, as vectors: float32 [n_texts, n_embd]; one text, or the token ids of one, may stand alone.

        Args:
            norm: which norm of each vector is 1: 2, the Euclidean one, or another p-norm; -1: they stay as they are.

        Raises:
            RequestError: no text, an empty one, or one that does not fit the context.
        """
        return normalized(self.embeddings(texts).result().vectors, norm)

    def embeddings(
        self,
        texts: Prompt | Sequence[Prompt],
        field: str = "texts",
        *,
        truncate: bool = False,
    ) -> Embeddings:
        """`embed` without waiting, and without normalising. Errors call the texts ``field``.

        ``truncate``: of a text that does not fit the context, the beginning is taken.
        """
        if not isinstance(texts, Sequence | np.ndarray):
            raise RequestError(f"{field} must be a text, token ids, or a list of such", field=field)
        is_one = isinstance(texts, str) or (len(texts) > 0 and not isinstance(texts[0], Sequence | np.ndarray))
        prompts = [self._embeddable(text, field, truncate) for text in ([texts] if is_one else texts)]
        if not prompts:
            raise RequestError(f"{field} is empty", field=field)
        return Embeddings(self.engine, prompts, self.pooling)

    def _embeddable(self, text: Any, field: str, truncate: bool) -> IntArray:
        """A text's token ids, with what the model wants before and after it; token ids as they are.

        Raises:
            RequestError: there are none, there are others than the model's, or there are too many.
        """
        ends: list[int] = []
        if isinstance(text, str) and text:
            if truncate:
                text = text[: self.n_ctx * self.tokenizer.longest]
            else:
                self.check_length(text, generates=False)
            ids = self.tokenize(text)
            if self.tokenizer.add_eos and self.tokenizer.eos_id is not None and ids[-1:] != [self.tokenizer.eos_id]:
                ends = [self.tokenizer.eos_id]
        else:
            ids = self._known_ids(text, field)
        if truncate:
            ids = ids[: self.n_ctx - len(ends)]
        if len(ids) + len(ends) > self.n_ctx:
            raise ContextOverflowError(len(ids) + len(ends), self.n_ctx, generates=False)
        return np.array([*ids, *ends], np.int32)

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
        rendered, _ = self._conversation(messages, tools, template_kwargs, constraints)
        self.check_length(rendered.text)
        return len(self.tokenizer.encode_prompt(rendered.pieces))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, in which special tokens are recognised; BOS first where the model wants it."""
        ids = self.tokenizer.encode(text, special=True)
        bos = self.tokenizer.bos_id
        if self.tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def check_length(self, *texts: str, n_least: int = 0, generates: bool = True) -> None:
        """Refuse what cannot fit before it takes time and memory to count it: no token has more bytes than the longest.

        ``n_least``: tokens that there are at least, whatever the texts are.

        Raises:
            ContextOverflowError: the texts do not fit the context together.
        """
        n_bytes = sum(len(text.encode(errors="replace")) for text in texts)
        n_least = max(n_least, -(-n_bytes // self.tokenizer.longest))
        if n_least > self.n_ctx:
            raise ContextOverflowError(n_least, self.n_ctx, generates=generates, at_least=True)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return self.tokenizer.decode(ids, special=True)

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Logits after each token of a sequence: float32 [n_tokens, n_vocab].

        Raises:
            RequestError: no tokens, or one that is not in the vocabulary.
        """
        ids = self._known_ids(token_ids, "token_ids")
        return self.engine.exclusively(lambda: logits(self._decoder, ids, self.kv_type))

    def _known_ids(self, values: Iterable[Any], name: str) -> list[int]:
        """As `_token_ids`; ids that the vocabulary does not have are refused too."""
        ids = _token_ids(values, name)
        if not all(0 <= i < self.config.n_vocab for i in ids):
            raise RequestError(f"{name} must be token ids from 0 to {self.config.n_vocab - 1}", field=name)
        return ids

    def session(self, n_ctx: int, backend: Backend | None = None) -> Session:
        """A sequence of its own beside the engine, for measuring; only while nothing is being generated.

        ``backend`` may stand in for the model's own, such as a `Profiler` of it.
        """
        decoder = self._decoder if backend is None else self._decoder.on(backend)
        return Session(decoder, n_ctx, self.kv_type)

    def _conversation(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]],
        template_kwargs: Mapping[str, Any] | None,
        constraints: Constraints,
    ) -> tuple[RenderedPrompt, list[Tool]]:
        """`_render` of a request: without the tools that it forbids, with the effort that it wants."""
        offered = () if constraints.tool_choice == "none" else tools
        variables = effort_variables(constraints.reasoning_effort)
        return self._render(messages, offered, {**variables, **(template_kwargs or {})})

    def _render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
    ) -> tuple[RenderedPrompt, list[Tool]]:
        """The prompt of a conversation, and the tools that it offers.

        One that is too long is refused before: all conversations are rendered in one process, one after another.
        """
        offered = [as_tool(tool) for tool in tools]
        turns = [as_message(m) for m in messages]
        self.check_length(*map(_lasting, turns), n_least=len(turns))
        asked_for = {"add_generation_prompt", "continue_final_message"} & template_kwargs.keys()
        continues = turns and turns[-1].role == "assistant" and not asked_for
        if continues:
            template_kwargs = {**template_kwargs, "continue_final_message": True}
        return self.template.render(turns, offered, **template_kwargs), offered

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
            "n_embd": self.config.n_embd,
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


def _for_the_rest(constraints: Constraints) -> Constraints:
    """What is asked of an answer whose thought is over and whose text has begun.

    Raises:
        RequestError: a format of the whole text.
    """
    if constraints.text is not None:
        field = constraints.text.field
        raise RequestError(f"{field} is of a whole answer, but the last message is to be continued", field=field)
    return replace(constraints, reasoning_effort=None, reasoning_budget=None)


def _lasting(message: Message) -> str:
    """The text of a message that every template keeps; most drop what was thought."""
    content = message.content or ""
    return content.rpartition(THINK[1])[2] if message.role == "assistant" else content


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
