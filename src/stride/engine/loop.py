"""The engine's loop, on its own thread: schedule, run, postprocess."""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from time import perf_counter
from typing import Any, TypeVar

from stride.engine.config import LOGITS_BYTES, EngineConfig, EngineMetrics, SlotState
from stride.engine.draft import Drafter, Drafting
from stride.engine.kv import PagedCache
from stride.engine.measures import Measures
from stride.engine.pooling import Pool
from stride.engine.prefix import PrefixCache
from stride.engine.prefix_store import PrefixStore
from stride.engine.request import Embedding, Failed, Finished, PromptLogprobs, Request, Token
from stride.engine.runner import Computed, Model, Runner
from stride.engine.sampler import Sampler
from stride.engine.sampler_logprobs import logprobs_of
from stride.engine.scheduler import Row, Scheduler
from stride.errors import (
    ClosedError,
    DeadlineError,
    GenerationError,
    InsufficientMemoryError,
    OverloadedError,
    StrideError,
)
from stride.ops.api import FloatArray
from stride.types import FinishReason

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Engine:
    """Runs requests through a model on a thread of its own, several at a time.

    ``submit``, ``cancel``, ``close`` and ``metrics`` may be called from any thread. Sleeps when there is nothing to do.
    """

    def __init__(
        self,
        model: Model,
        config: EngineConfig,
        has_room: Callable[[Sequence[int]], bool] = lambda fresh_pages: True,
        drafter: Callable[[Runner], Drafter] | None = None,
    ) -> None:
        """``has_room``: see `Scheduler`. ``drafter`` makes what drafts; None: nothing does."""
        self._n_vocab = model.n_vocab
        self.config = config
        # Each group gets the same part of the memory: which one a page is of says nothing about its use.
        spare = [config.cache_bytes // len(model.windows) // n_bytes for n_bytes in model.page_bytes(config.kv_type)]
        self._cache = PagedCache(model.windows, config.n_parallel, config.n_ctx, config.chunk, spare)
        self._prefixes = PrefixCache(self._cache)
        self._store: PrefixStore | None = None
        self.measures = Measures()
        # The thread alone holds model and cache memory, so that a closed engine holds neither.
        runner = Runner(model, self._cache, config.kv_type)
        drafting = None if drafter is None else Drafting(drafter(runner), config, self.measures)
        self._drafting: Drafting | None = None
        most_logits = LOGITS_BYTES // (4 * model.n_vocab)
        self._scheduler = Scheduler(self._cache, config.chunk, self._prefixes, has_room, most_logits)
        self._durations: deque[float] = deque(maxlen=16)  # seconds of the last requests in work
        self._changed = threading.Condition()  # guards the scheduler and the flags below
        self._calls: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._displaced: list[tuple[Request, StrideError]] = []  # taken out, and yet to be told
        self._closing = False
        self._aborting = False
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0
        self._thread = threading.Thread(target=self._loop, args=(runner, drafting), name="stride-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a daemon thread must not be inside a kernel when the interpreter goes

    def submit(self, request: Request, *, takes_over: bool = False) -> None:
        """Queue a request; its ``deliver`` hears of everything that follows.

        ``takes_over``: another request of the same caller has just ended, and this one has its place: a full queue is
        no reason to refuse it.

        Raises:
            RequestError: the request cannot be served as asked (``ContextOverflowError``: the prompt is too long).
            OverloadedError: the queue is full, and this request's scope has its share of it. If it has less, the newest
                request of the scope that has most waiting is failed with this error.
            ClosedError: the engine is closed.
        """
        request.prepare(self.config.n_ctx, self._n_vocab)
        banned = request.eos_ids if request.params.ignore_eos else ()
        prompt_ids = request.token_ids[: request.n_prompt]
        is_kept = self.config.cache_bytes > 0 and request.params.cache_prompt
        shared_within = request.cache_scope if is_kept else request.group
        request.scope = None if request.prompt_logprobs else shared_within
        request.sampler = Sampler(request.params, prompt_ids, self._n_vocab, banned, request.dry_breakers)
        with self._changed:
            if self._closing:
                raise ClosedError
            in_flight = len(self._scheduler.waiting) + len(self._scheduler.running)
            if not takes_over and in_flight >= self.config.n_parallel + self.config.max_queue:
                displaced = self._scheduler.waiting.displace(request.cache_scope)
                self.measures.dropped("refused")
                full = OverloadedError(
                    f"{in_flight} requests are in work or waiting, which is as many as may be", self._place_seconds()
                )
                if displaced is None:
                    raise full
                self._displaced.append((displaced, full))
            request.queued_at = perf_counter()
            self._scheduler.add(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """End a request within one step; it fails with "cancelled". No effect on one that has ended."""
        with self._changed:
            request.cancelled = True
            self._changed.notify()

    def close(self, *, drain: bool = False) -> None:
        """Refuse new requests, finish (``drain``) or fail those there are, and stop the thread."""
        with self._changed:
            self._closing = True
            self._aborting = not drain
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def exclusively(self, work: Callable[[], T]) -> T:
        """Call something on the engine's thread, between two steps, and give what it gives or raises.

        Raises:
            ClosedError: the engine is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closing:
                raise ClosedError
            self._calls.append((future, work))
            self._changed.notify()
        return future.result()

    @property
    def metrics(self) -> EngineMetrics:
        with self._changed:
            return EngineMetrics(
                queued=len(self._scheduler.waiting),
                running=len(self._scheduler.running),
                prompt_tokens=self._prompt_tokens,
                generated_tokens=self._generated_tokens,
                cached_tokens=self._cached_tokens,
                busy_pages=self._cache.n_busy_pages,
                cached_pages=self._prefixes.n_pages,
                total_pages=self._cache.n_pages,
            )

    @property
    def slots(self) -> list[SlotState]:
        """The running requests."""
        with self._changed:
            return [
                SlotState(
                    slot=request.slot,
                    n_prompt=request.n_prompt,
                    n_computed=request.n_computed,
                    n_generated=request.n_tokens - request.n_prompt,
                    n_remaining=len(request.token_ids) - request.n_tokens,
                    params=request.params,
                )
                for request in self._scheduler.running
            ]

    # --- the engine's thread ---

    def _loop(self, runner: Runner, drafting: Drafting | None) -> None:
        self._drafting = drafting
        if self.config.cache_bytes and self.config.cache_dir is not None:
            self._store = PrefixStore(self.config.cache_dir, self.config.cache_identity, self._prefixes, runner)
        try:
            if self._store is not None:
                self._store.load()
            while rows := self._schedule():
                self._step(runner, rows)
                self._draft()
                if self._store is not None:
                    self._store.stepped()
        finally:  # whatever ends this thread, nobody is left waiting
            with self._changed:
                self._closing = True
                unfinished = [*self._scheduler.waiting, *self._scheduler.running]
                self.measures.dropped("closed", len(unfinished))
                for request in unfinished:
                    self._scheduler.remove(request)
                unfinished += [request for request, _ in self._displaced]
            for request in unfinished:
                self._deliver(request, Failed(ClosedError()))
            for future, _ in self._calls:
                future.set_exception(ClosedError())
            if self._store is not None:
                self._store.save_all()
            self._store = self._drafting = None  # they have the model's memory

    def _step(self, runner: Runner, rows: list[Row]) -> None:
        for done, computed in self._run(runner, rows):  # which is let go of before the next step has its own
            self._postprocess(done, computed)

    def _draft(self) -> None:
        """Guess tokens for the next step. Where that fails, nothing is drafted any more."""
        if self._drafting is None:
            return
        try:
            self._drafting.propose(self._scheduler.running)
        except Exception:
            _log.exception("drafting failed, and is off from now on")
            self._drafting, self._scheduler.draft_reach = None, 0
            for request in self._scheduler.running:
                request.n_drafts = request.n_verified = 0

    def _schedule(self) -> list[Row]:
        """The next step's rows, once there are some; none when the engine has to stop."""
        while True:
            while self._store is not None and not self._has_work() and self._store.save_one():
                pass
            with self._changed:
                self._changed.wait_for(self._has_work)
                calls, self._calls = self._calls, []
                cancelled = self._scheduler.remove_cancelled()
                late = self._remove_late()
                displaced, self._displaced = self._displaced, []
                for request, _ in displaced:
                    self._scheduler.left(request)
                if self._drafting is not None:
                    self._scheduler.draft_reach = self._drafting.reach(has_new=len(self._scheduler.waiting) > 0)
                rows = [] if self._aborting else self._scheduler.schedule()
                refused = None if rows or self._aborting else self._scheduler.remove_refused()
                closing = self._closing
                self.measures.dropped("cancelled", len(cancelled))
                self.measures.dropped("late", len(late))
                self.measures.dropped("refused", refused is not None)
            for future, work in calls:
                try:
                    future.set_result(work())
                except BaseException as error:  # it is the caller's, whatever it is
                    future.set_exception(error)
            for request in cancelled:
                self._deliver(request, Failed(GenerationError("the request was cancelled")))
            for request, failure in (*displaced, *late):
                self._deliver(request, Failed(failure))
            if refused is not None:
                self._deliver(refused, Failed(_out_of_memory(refused)))
            elif rows or closing:
                return rows

    def _remove_late(self) -> list[tuple[Request, StrideError]]:
        """Take out the requests whose time is over, each with its error."""
        now, config = perf_counter(), self.config
        late = self._scheduler.remove_late(now - config.queue_seconds, now - config.request_seconds)
        patience = min(config.queue_seconds, config.request_seconds)
        waited = OverloadedError(f"nobody was free within {patience:g} s", self._place_seconds())
        took = DeadlineError(f"the request took longer than {config.request_seconds:g} s")
        return [(request, waited if request.slot < 0 else took) for request in late]

    def _place_seconds(self) -> float:
        """Seconds until a place in the queue gets free, going by how long the last requests were in work."""
        now = perf_counter()
        seen = self._durations or [now - request.admitted_at for request in self._scheduler.running]
        return sum(seen) / max(1, len(seen)) / self.config.n_parallel

    def _has_work(self) -> bool:
        return bool(
            self._closing or self._calls or self._displaced or self._scheduler.waiting or self._scheduler.running
        )

    def _run(self, runner: Runner, rows: list[Row]) -> Iterator[tuple[list[Row], list[Computed]]]:
        """The rows with what they asked for. Where they fail together, each runs alone, and fails alone."""
        failure: Exception | None = None
        start = perf_counter()
        try:
            computed = runner.run(rows)
            seconds = perf_counter() - start
            self._scheduler.ran(rows, seconds)
        except Exception as error:
            failure = error
        if failure is None:
            self.measures.step(len(rows), sum(row.end - row.start for row in rows), seconds)
            if self._drafting is not None:
                self._drafting.computed(rows, [of_row.states for of_row in computed], seconds)
            yield rows, computed
        elif len(rows) == 1:
            self._end(rows[0].request, Failed(_as_stride_error(failure, "the model")))
        else:
            _log.warning("a step of %d sequences failed; each runs alone now", len(rows), exc_info=failure)
            failure = None  # lets go of the arrays that its traceback holds
            for row in rows:
                yield from self._run(runner, [row])

    def _postprocess(self, rows: list[Row], computed: list[Computed]) -> None:
        for row, wanted in zip(rows, computed, strict=True):
            request = row.request
            if row.start == request.n_cached:
                self._cached_tokens += request.n_cached
            tells_prompt = request.tells_prompt
            request.n_computed = min(row.end, request.n_tokens)  # what is behind them are drafts
            self._prompt_tokens += max(0, min(row.end, request.n_prompt) - row.start)
            if not request.cancelled:
                self._advance(row, wanted.outputs, tells_prompt=tells_prompt)

    def _advance(self, row: Row, outputs: FloatArray, *, tells_prompt: bool) -> None:
        """Continue one request with the logits [outputs, n_vocab] or states [outputs, n_embd] it wanted; its errors are
        its own."""
        request, reason = row.request, None
        try:
            if request.pool is not None:
                reason = self._pool(request, request.pool, outputs)
            else:
                if tells_prompt and request.prompt_logits is not None:
                    request.prompt_logits(outputs)
                elif tells_prompt:
                    self._tell_prompt(row, outputs)
                if request.n_computed == request.n_tokens:
                    reason = "length" if request.is_full else self._follow(request, outputs)
        except Exception as error:
            self._end(request, Failed(_as_stride_error(error, "sampling, pooling or a callback")))
        else:
            if reason is not None:
                self._end(request, request.finished(reason))

    def _tell_prompt(self, row: Row, logits: FloatArray) -> None:
        """Note the log probabilities of the tokens after a row's; deliver them once they are all there."""
        request = row.request
        assert request.params.logprobs is not None
        following = request.token_ids[row.start + 1 : min(row.end + 1, request.n_prompt)].tolist()
        for token_id, after in zip(following, logits, strict=False):  # after the last one comes what is generated
            request.told.append(logprobs_of(after, token_id, request.params.logprobs))
        if row.end == request.n_prompt:
            request.deliver(PromptLogprobs(tuple(request.told)))

    def _pool(self, request: Request, pool: Pool, states: FloatArray) -> FinishReason | None:
        """Add hidden states to a prompt's vector, and deliver it once it is whole."""
        pool.add(states)
        if request.n_computed < request.n_prompt:
            return None
        request.deliver(Embedding(pool.vector()))
        return "stop"

    def _follow(self, request: Request, outputs: FloatArray) -> FinishReason | None:
        """Choose the next token, and those after it for as long as each is the draft that was computed in its place."""
        drafts, n_verified = request.take_drafts()
        reason: FinishReason | None = None
        n_right = n_chosen = 0
        for logits in outputs[-1 - n_verified :]:
            request.n_computed += n_chosen > 0  # the last one chosen was computed, as a draft
            reason = self._generate(request, logits)
            is_right = drafts[n_right : n_right + 1] == [request.token_ids[request.n_tokens - 1]]
            n_right, n_chosen = n_right + is_right, n_chosen + 1
            if reason is not None or not is_right or request.cancelled:
                break
        self.measures.sequence_steps += 1
        if drafts and self._drafting is not None:
            self._drafting.judge(request, n_right, min(n_chosen, len(drafts)), n_verified)
        return reason

    def _generate(self, request: Request, logits: FloatArray) -> FinishReason | None:
        """Choose, record and deliver a token; why the output ends with it, if it does."""
        allowed = None if request.mask is None else request.mask.allowed()
        if allowed is not None and allowed.is_within(request.eos_ids):  # complete, even if no end is wanted
            token_id = int(allowed.ids[0])
        else:
            token_id = request.sampler.sample(logits, allowed)
        request.sampler.accept(token_id)
        before = request.last_token_at
        request.append(token_id)
        self.measures.token(request, before)
        self._generated_tokens += 1
        if token_id in request.eos_ids:
            return "stop"
        if request.mask is not None:
            request.mask.accept(token_id)
        n_top = request.params.logprobs
        token = Token(token_id, None if n_top is None else logprobs_of(logits, token_id, n_top))
        stops = request.stop is not None and request.stop(token)
        request.deliver(token)
        if stops:
            return "stop"
        return "length" if request.is_full else None

    def _end(self, request: Request, output: Finished | Failed) -> None:
        with self._changed:
            self._scheduler.remove(request)
            self._durations.append(perf_counter() - request.admitted_at)
        self.measures.end(request, output)
        self._deliver(request, output)

    def _deliver(self, request: Request, output: Finished | Failed) -> None:
        try:
            request.deliver(output)
        except Exception:
            _log.exception("nobody took the end of a request: %r", output)


def _out_of_memory(request: Request) -> InsufficientMemoryError:
    return InsufficientMemoryError(
        f"memory is too short now for the up to {len(request.token_ids)} tokens of this request: "
        "a smaller max_tokens needs less, as does closing other programs",
        could_ever_fit=True,
    )


def _as_stride_error(error: Exception, where: str) -> StrideError:
    if isinstance(error, StrideError):
        return error
    _log.error("%s failed", where, exc_info=error)
    return GenerationError(f"{where} failed: {type(error).__name__}: {error}")
