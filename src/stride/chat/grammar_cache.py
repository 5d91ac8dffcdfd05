"""Compiled grammars that are kept for requests to come."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class _Sized(Protocol):
    @property
    def n_bytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


class GrammarCache(Generic[T]):
    """What was made, by key; at most ``n_bytes`` are kept, and the least recently used go first. Thread-safe.

    Nothing waits for what is being made under another key.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = 0
        self._limit = n_bytes
        self._lock = threading.Lock()
        self._made: OrderedDict[Hashable, T] = OrderedDict()
        self._being_made: dict[Hashable, Future[T]] = {}

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under this key, or what ``make`` makes, once for all who ask meanwhile; so are its errors."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            future = self._being_made.get(key)
            is_first = future is None
            if future is None:
                future = self._being_made[key] = Future()
        if is_first:
            self._make(key, make, future)
        return future.result()

    def _make(self, key: Hashable, make: Callable[[], T], future: Future[T]) -> None:
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                del self._being_made[key]
            future.set_exception(error)
            return
        with self._lock:
            del self._being_made[key]
            self._made[key] = made
            self.n_bytes += made.n_bytes
            while self.n_bytes > self._limit:
                _, dropped = self._made.popitem(last=False)
                self.n_bytes -= dropped.n_bytes
        future.set_result(made)
