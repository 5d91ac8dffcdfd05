"""`LLM`: a model file, its tokenizer, its chat format and the engine, composed. The same object serves the command
line, Python and HTTP."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

import numpy as np

from stride import facts
from stride.chat.constraints import FIELDS, NO_CONSTRAINTS, Constraints, TextFormat, read_constraints
from stride.chat.prompt import Prompter
from stride.chat.stream import StreamParser
from stride.chat.texts import Texts, whole_numbers
from stride.embeddings import EUCLIDEAN, Embeddings, normalized
from stride.errors import ContextOverflowError, GenerationError, RequestError
from stride.load import LoadOptions, load
from stride.logits import prompt_logits
from stride.memory import Plan
from stride.models import Decoder, Session
from stride.models.load import Progress
from stride.ops.api import Backend, FloatArray, KVType, StreamCounts
from stride.stream import Stream
from stride.types import Completion, LogitsMask, Message, Pooling, Prompt, SamplingParams, Tool, sampling_params


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
        memory: bytes, or text such as "16G", that all of this may take together; what does not fit of a model's routed
            experts stays on disk then, and is read as it is wanted. None is all that is free.
        chat_template: Jinja source to use instead of the file's.
        max_queue: requests that may wait.
        queue_seconds: how long a request may wait.
        request_seconds: how long a request may take.
        cache_ram: MiB of memory for the keys and values of earlier prompts and answers, so that what begins like them
            starts sooner; 0 is none, -1 all that is left, None at most 8192 and half of what is left.
        cache_dir: a folder in which they outlive this object.
        draft: what guesses tokens ahead, which are then verified together: the model's own heads, lookup (what the text
            so far repeats), the file of a smaller model, auto (heads where there are some, else lookup) or off. It
            changes how fast tokens come, and never which; as many are guessed as pay.
        draft_max: tokens guessed at a time, at most; 0 is off.
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
        memory: int | str | None = None,
        chat_template: str | None = None,
        max_queue: int = 64,
        queue_seconds: float = inf,
        request_seconds: float = inf,
        cache_ram: int | None = None,
        cache_dir: str | Path | None = None,
        draft: str | Path = "auto",
        draft_max: int | None = None,
        pooling: Pooling | None = None,
        progress: Progress | None = None,
        planned: Callable[[Plan], None] | None = None,
    ) -> None:
        self._loaded = load(
            LoadOptions(
                model=model,
                backend=backend,
                n_ctx=n_ctx,
                n_parallel=n_parallel,
                threads=threads,
                kv_type=kv_type,
                memory=memory,
                chat_template=chat_template,
                max_queue=max_queue,
                queue_seconds=queue_seconds,
                request_seconds=request_seconds,
                cache_ram=cache_ram,
                cache_dir=cache_dir,
                draft=draft,
                draft_max=draft_max,
                pooling=pooling,
                progress=progress,
                planned=planned,
            )
        )
        loaded = self._loaded
        self.path, self.config, self.pooling = loaded.path, loaded.config, loaded.pooling
        self.tokenizer, self.template, self.tool_format = loaded.tokenizer, loaded.template, loaded.tool_format
        self.masks, self.backend, self.engine = loaded.masks, loaded.backend, loaded.engine
        self.plan, self.n_ctx, self.kv_type = loaded.plan, loaded.plan.n_ctx, loaded.plan.kv_type
        self.draft_kind = loaded.drafting.kind
        self._texts = Texts(self.tokenizer, self.n_ctx, self.config.n_vocab)
        self._prompter = Prompter(self.template, self.tokenizer, self.tool_format, self._texts)
        self.cache_scope = ""
        self._group: str | None = None
        self._is_view = False

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
        if isinstance(prompt, str) and prompt:
            self.check_length(prompt)
            ids = self._texts.ids(prompt, "prompt")
        else:
            ids = whole_numbers(prompt, "prompt")
        mask = None if text_format is None else self.masks.text(text_format, self.cache_scope)
        adds_bos = isinstance(prompt, str) and self._texts.puts_bos_before(prompt)
        return self._started(ids, params, None, mask, int(adds_bos) if prompt_logprobs else None)

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
        prompt = self._prompter.prompt(messages, tools, template_kwargs, constraints)
        if prompt.continues == "content":
            constraints = _for_the_rest(constraints)
        mask = self.masks.answer(prompt.tools, constraints, prompt.in_reasoning, self.cache_scope)
        parser = StreamParser(
            self.tool_format,
            prompt.tools,
            prompt.in_reasoning,
            constrained=bool(prompt.tools) and bool(self.tool_format.shapes),
            formatted=constraints.text is not None,
            continues=prompt.continues is not None,
        )
        return self._started(prompt.ids, params, parser, mask)

    def _started(
        self,
        ids: list[int],
        params: SamplingParams | None,
        parser: StreamParser | None,
        mask: LogitsMask | None,
        tell_prompt_from: int | None = None,
    ) -> Stream:
        stream = Stream(
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
        self.engine.submit(stream.request)
        return stream

    def scoped(self, cache_scope: str) -> Self:
        """The same model for one user: requests share prompts, and what their times tell, only within a scope."""
        return self._view(cache_scope, self._group)

    def grouped(self) -> Self:
        """The same model for requests of one prompt, which they compute once, whether or not prompts are kept."""
        return self._view(self.cache_scope, uuid.uuid4().hex)

    def _view(self, cache_scope: str, group: str | None) -> Self:
        """The same model; closing the view closes nothing."""
        view = copy.copy(self)
        view.cache_scope, view._group, view._is_view = cache_scope, group, True
        return view

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
        prompts = [self._texts.to_embed(text, field, truncate) for text in ([texts] if is_one else texts)]
        if not prompts:
            raise RequestError(f"{field} is empty", field=field)
        return Embeddings(self.engine, prompts, self.pooling, self.cache_scope)

    # --- text and numbers ---

    def apply_template(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt that `chat` would run, as text; ``kwargs`` go to the template."""
        return self._prompter.render(messages, tools or (), kwargs).text

    def count_tokens(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Tool | Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        constraints: Constraints = NO_CONSTRAINTS,
    ) -> int:
        """Tokens of the prompt that `chat_stream` would run."""
        return len(self._prompter.prompt(messages, tools, template_kwargs, constraints).ids)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, in which special tokens are recognised; BOS first where the model wants it.

        Raises:
            RequestError: the text is no Unicode.
        """
        return self._texts.ids(text, "text")

    def check_length(self, *texts: str, n_least: int = 0, generates: bool = True) -> None:
        """See `Texts.check_length`."""
        self._texts.check_length(*texts, n_least=n_least, generates=generates)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return self.tokenizer.decode(ids, special=True)

    def logits(self, token_ids: Sequence[int]) -> FloatArray:
        """Logits after each token of a sequence: float32 [n_tokens, n_vocab].

        Raises:
            RequestError: no tokens, one that is not in the vocabulary, or more than the context holds.
        """
        ids = self._texts.known_ids(token_ids, "token_ids")
        if len(ids) > self.n_ctx:
            raise ContextOverflowError(len(ids), self.n_ctx, generates=False)
        return prompt_logits(self.engine, ids, self.cache_scope)

    def session(self, n_ctx: int, backend: Backend | None = None) -> Session:
        """A sequence of its own beside the engine, for measuring; only while nothing is being generated.

        ``backend`` may stand in for the model's own, such as a `Profiler` of it.
        """
        decoder = self._decoder if backend is None else self._decoder.on(backend)
        return Session(decoder, n_ctx, self.kv_type, self.plan.chunk)

    # --- facts ---

    @property
    def _decoder(self) -> Decoder:
        if self._loaded.decoder is None:
            raise GenerationError("the model is closed")
        return self._loaded.decoder

    @property
    def name(self) -> str:
        """The model's name, for people."""
        return self.config.name

    @property
    def notes(self) -> list[str]:
        """What people should know about how this model was loaded, such as types that were converted."""
        return facts.notes(self._loaded)

    def expectation(self) -> str | None:
        """How fast this model will be, where its routed experts stay on disk, and why; None otherwise."""
        return facts.expectation(self._loaded)

    @property
    def info(self) -> dict[str, Any]:
        """Facts for reports and `/props`."""
        return facts.info(self._loaded)

    @property
    def streaming(self) -> StreamCounts | None:
        """Of routed experts that stay on disk, since the start; None where all are in memory."""
        return self.backend.streaming

    def close(self) -> None:
        """Stop generating and give the memory back; requests under way fail. Nothing, of a `scoped` model."""
        if not self._is_view:
            self._loaded.close()

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
