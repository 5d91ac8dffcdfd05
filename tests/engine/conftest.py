"""A model without tensors, that shows in its output every token it reads and where it read it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from stride.engine import (
    Embedding,
    Engine,
    EngineConfig,
    Failed,
    Finished,
    Output,
    PromptLogprobs,
    Request,
    Token,
)
from stride.ops.api import PAGE_TOKENS, Batch, FloatArray, KVType
from stride.types import SamplingParams


class FakeModel:
    """A hidden state is a hash of the tokens that each cache group lets a position see, and makes its logits.

    The tokens are stored in pages and read back through the page tables, so that a wrong table, a page shared by two
    sequences or a page let go too early changes the output.
    """

    def __init__(self, n_vocab: int = 97, windows: tuple[int | None, ...] = (None, 40)) -> None:
        self.n_vocab = n_vocab
        self.n_embd = 5
        self.windows = windows
        self.draft_windows = ()
        self.batches: list[Batch] = []
        self.before_forward: Callable[[Batch], None] = lambda batch: None

    def new_cache(self, n_pages: Sequence[int], kind: KVType) -> list[np.ndarray]:
        return [np.full((n, PAGE_TOKENS), -1, np.int64) for n in n_pages]

    def page_bytes(self, kind: KVType) -> tuple[int, ...]:
        return (8 * PAGE_TOKENS,) * len(self.windows)

    def read_page(self, cache: list[np.ndarray], group: int, page: int) -> np.ndarray:
        return cache[group][page].view(np.uint8)

    def write_page(self, cache: list[np.ndarray], group: int, page: int, data: np.ndarray) -> None:
        cache[group][page] = data.view(np.int64)

    def copy_page(self, cache: list[np.ndarray], group: int, source: int, target: int) -> None:
        cache[group][target] = cache[group][source]

    def hidden(self, batch: Batch, cache: list[np.ndarray]) -> list[int]:
        self.batches.append(batch)
        self.before_forward(batch)
        rows = list(zip(batch.row_starts[:-1].tolist(), batch.row_starts[1:].tolist(), strict=True))
        for row, (first, end) in enumerate(rows):
            for pages, table in zip(cache, batch.page_tables, strict=True):
                for token, position in zip(batch.token_ids[first:end], batch.positions[first:end], strict=True):
                    page = table[row, position // PAGE_TOKENS]
                    assert page >= 0
                    pages[page, position % PAGE_TOKENS] = token
        row_of = np.repeat(np.arange(len(rows)), np.diff(batch.row_starts))
        return [self._read(batch, cache, row_of[i], i) for i in batch.outputs]

    def logits(self, hidden: list[int], rows: np.ndarray) -> FloatArray:
        logits = [_normal(hidden[row], self.n_vocab) * 3 for row in rows]
        return np.array(logits, np.float32).reshape(len(rows), self.n_vocab)

    def states(self, hidden: list[int], rows: np.ndarray) -> FloatArray:
        return np.array([_normal(hidden[row], self.n_embd) for row in rows], np.float32).reshape(-1, self.n_embd)

    residual = states

    def _read(self, batch: Batch, cache: list[np.ndarray], row: int, index: int) -> int:
        position = int(batch.positions[index])
        seen = []
        for pages, table, window in zip(cache, batch.page_tables, self.windows, strict=True):
            start = 0 if window is None else max(0, position - window + 1)
            entries = table[row, start // PAGE_TOKENS : position // PAGE_TOKENS + 1]
            assert (entries >= 0).all()
            seen.append(pages[entries].ravel()[start % PAGE_TOKENS :][: position - start + 1])
        return _digest(seen)

    def expected_hidden(self, tokens: Sequence[int]) -> int:
        """The state of the last of these tokens, without a cache."""
        array = np.array(tokens, np.int64)
        return _digest([array[0 if window is None else max(0, len(array) - window) :] for window in self.windows])

    def expected_logits(self, tokens: Sequence[int]) -> FloatArray:
        """Logits after these tokens, without a cache."""
        return _normal(self.expected_hidden(tokens), self.n_vocab) * 3

    def expected_states(self, tokens: Sequence[int]) -> FloatArray:
        """float32 [tokens, n_embd]: the states of these tokens, without a cache."""
        return np.array([_normal(self.expected_hidden(tokens[: i + 1]), self.n_embd) for i in range(len(tokens))])

    def greedy(self, prompt: Sequence[int], n: int) -> list[int]:
        """The n tokens that follow the prompt at temperature 0, without a cache."""
        tokens = list(prompt)
        for _ in range(n):
            tokens.append(int(self.expected_logits(tokens).argmax()))
        return tokens[len(prompt) :]


def _digest(seen: list[np.ndarray]) -> int:
    digest = 0
    for tokens in seen:
        for token in tokens.tolist():
            digest = (digest * 1_000_003 + token + 7) % 2**61
    return digest


def _normal(seed: int, n: int) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


class Client:
    """A request and all it was told."""

    def __init__(self, prompt_ids: Sequence[int], *, params: SamplingParams | None = None, **options: Any) -> None:
        self.outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self.tokens: list[int] = []
        self.vectors: list[FloatArray] = []
        self.prompt: PromptLogprobs | None = None
        self.end: Finished | Failed | None = None
        self.ended = threading.Event()
        params = params or SamplingParams(temperature=0, max_tokens=options.pop("max_tokens", 8))
        self.request = Request(prompt_ids, params, options.pop("deliver", self._deliver), **options)

    def _deliver(self, output: Output) -> None:
        assert self.end is None, "told something after the end"
        if isinstance(output, PromptLogprobs):
            assert (self.prompt, self.tokens) == (None, []), "the prompt comes first, and once"
            self.prompt = output
        elif isinstance(output, Token):
            self.tokens.append(output.token_id)
        elif isinstance(output, Embedding):
            self.vectors.append(output.vector)
        else:
            self.end = output
            self.ended.set()

    def wait(self) -> Client:
        assert self.ended.wait(20), "never answered"
        return self

    @property
    def reason(self) -> str:
        assert isinstance(self.end, Finished), self.end
        return self.end.reason

    @property
    def error(self) -> Exception:
        assert isinstance(self.end, Failed), self.end
        return self.end.error


StartEngine = Callable[..., Engine]


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture(scope="session")
def new_client() -> type[Client]:
    return Client


@pytest.fixture(scope="session")
def new_model() -> type[FakeModel]:
    return FakeModel


def _at_drawn_steps(
    engine: Engine,
    model: FakeModel,
    clients: Sequence[Client],
    arrivals: Sequence[int],
    cancellations: Mapping[int, int],
    n_steps: int,
) -> None:
    due = [(at, engine.submit, client) for at, client in zip(arrivals, clients, strict=False)]
    due += [(at, engine.cancel, clients[i]) for i, at in cancellations.items() if i < len(clients)]

    def act(batch: object = None) -> None:
        for action in [action for action in due if batch is None or action[0] <= len(model.batches)]:
            due.remove(action)
            action[1](action[2].request)

    model.before_forward = act
    trigger = Client([1], max_tokens=n_steps)
    engine.submit(trigger.request)
    trigger.wait()
    engine.exclusively(act)  # what was due after the last step


@pytest.fixture(scope="session")
def at_drawn_steps() -> Callable[..., None]:
    """``at_drawn_steps(engine, model, clients, arrivals, cancellations, n_steps)``: clients are submitted, and by their
    index cancelled, at steps of the model, on the engine's thread while the step runs."""
    return _at_drawn_steps


@pytest.fixture
def start(model: FakeModel) -> Iterator[StartEngine]:
    """Starts engines over the fake model, and closes them at the end. Arguments are ``EngineConfig``'s."""
    engines: list[Engine] = []

    def start_engine(over: FakeModel = model, **config: Any) -> Engine:
        engines.append(Engine(over, EngineConfig(**{"n_ctx": 256, "n_parallel": 3, "chunk": 64, **config})))
        return engines[-1]

    yield start_engine
    for engine in engines:
        engine.close()
