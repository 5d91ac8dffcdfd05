"""The models of a server: loaded when they are asked for, held while in use, unloaded when another needs the memory.

A server of one model loads it at once, says 503 until it is there, and takes any name for it. A server of several loads
each at the first request for it, which waits; requests for models that are loaded go on meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from stride.api import LLM
from stride.errors import ClosedError, InsufficientMemoryError, RequestError
from stride.server.errors import LoadingError, NoModelError, UnloadedError

Load = Callable[[threading.Event], LLM]
"""Loads a model; gives up with an error soon after the event is set."""
State = Literal["unloaded", "loading", "loaded", "unloading"]


class ModelFile(NamedTuple):
    """A model's file, the first of a split one, and the bytes of all."""

    path: Path
    n_bytes: int


@dataclass(eq=False, slots=True)
class Slot:
    """A model that is loaded or being loaded, and how many requests hold it."""

    name: str
    users: int = 0
    ready: Future[LLM] = field(default_factory=Future)

    @property
    def llm(self) -> LLM | None:
        """The model, if it is loaded."""
        return self.ready.result() if self.ready.done() and self.ready.exception() is None else None


class Models:
    """Models by name. ``acquire`` is for coroutines of any event loop, everything else for any thread.

    One model is loaded at a time, because each is planned with the memory that the ones before it have left. Where
    that is too little, models are unloaded until it is enough: idle ones first, the least recently used first. One in
    use takes no new requests then (they wait until it is loaded again) and is unloaded when its last one has ended.
    """

    def __init__(self, loads: Mapping[str, Load], files: Mapping[str, ModelFile] | None = None) -> None:
        if not loads:
            raise ValueError("a server needs a model")
        self._loads = dict(loads)
        self.files = dict(files or {})
        """Where models lie, as far as that is known before they are loaded."""
        self._slots: dict[str, Slot] = {}  # the least recently used first
        self._leaving: set[str] = set()  # those that finish their last requests
        self._changed = threading.Condition()  # guards the slots
        self._stopping = threading.Event()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="stride-load")

    @classmethod
    def of(cls, llm: LLM) -> Models:
        """One model that is there already."""
        models = cls({"": lambda stopping: llm})
        slot = models._slots[""] = Slot("")
        slot.ready.set_result(llm)
        return models

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, in the order given; one that is alone may have the name ''."""
        return tuple(self._loads)

    @property
    def is_single(self) -> bool:
        """There is one model, whatever clients call it."""
        return len(self._loads) == 1

    def start(self) -> Future[LLM]:
        """Load the only model."""
        (name,) = self._loads
        with self._changed:
            return self._open(name).ready

    async def acquire(self, name: str | None, *, load: bool = True) -> Slot:
        """The model of that name, loaded; it stays so until ``release``.

        Raises:
            LoadingError: the only model is not there yet.
            UnloadedError: another is not, and it is not to be loaded.
            RequestError: no name, where there are several models.
            NoModelError: there is none of that name.
            StrideError: it cannot be loaded.
        """
        name = self._known(name)
        with self._changed:
            slot = self._slots.get(name)
            if slot is None or slot.llm is None:
                if self.is_single:
                    raise LoadingError
                if not load:
                    raise UnloadedError(name)
            self._slots.pop(name, None)
            if slot is None:
                slot = self._open(name)
            self._slots[name] = slot
            slot.users += 1
        try:
            await asyncio.shield(asyncio.wrap_future(slot.ready))
        except BaseException:
            self.release(slot)
            raise
        return slot

    def release(self, slot: Slot) -> None:
        """End one ``acquire``."""
        with self._changed:
            slot.users -= 1
            self._changed.notify_all()

    def loaded(self) -> dict[str, LLM]:
        """The models in memory at this moment, for looking at; only ``acquire`` keeps one there."""
        with self._changed:
            return {slot.name: slot.llm for slot in self._slots.values() if slot.llm is not None}

    def state(self, name: str) -> State:
        """What has become of a model."""
        with self._changed:
            slot = self._slots.get(name)
            if slot is None:
                return "unloading" if name in self._leaving else "unloaded"
            return "loading" if slot.llm is None else "loaded"

    def unload(self, name: str | None) -> None:
        """Give back the memory of a model that nobody uses; the only one of a server stays. Blocks until it is done.

        Raises:
            RequestError, NoModelError: as `acquire` does.
        """
        name = self._known(name)
        with self._changed:
            slot = self._slots.get(name)
            if self.is_single or slot is None or slot.llm is None or slot.users:
                return
            del self._slots[name]
        slot.llm.close()
        _say(name, "unloaded, as a request wanted")

    def close(self) -> None:
        """Stop loading and close every model; requests under way fail."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._loader.shutdown(cancel_futures=True)
        with self._changed:
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            if slot.llm is not None:
                slot.llm.close()
            elif not slot.ready.done():
                slot.ready.set_exception(ClosedError())

    def _known(self, name: str | None) -> str:
        if self.is_single:
            return self.names[0]
        if name is None:
            raise RequestError(f"model must be one of {', '.join(self.names)}", field="model")
        if name not in self._loads:
            raise NoModelError(name, self.names)
        return name

    def _open(self, name: str) -> Slot:
        """A slot whose model the loader will bring. The caller holds the lock."""
        slot = self._slots[name] = Slot(name)
        self._loader.submit(self._fill, slot)
        return slot

    # --- on the loader's thread ---

    def _fill(self, slot: Slot) -> None:
        started = time.perf_counter()
        try:
            llm = self._load(slot.name)
        except BaseException as error:  # it is theirs who wait
            with self._changed:
                if self._slots.get(slot.name) is slot:
                    del self._slots[slot.name]
            slot.ready.set_exception(error)
        else:
            slot.ready.set_result(llm)
            _say(slot.name, f"ready in {time.perf_counter() - started:.1f} s")

    def _load(self, name: str) -> LLM:
        while True:
            try:
                return self._loads[name](self._stopping)
            except InsufficientMemoryError as error:
                if not error.could_ever_fit or not self._make_room(name):
                    raise

    def _make_room(self, name: str) -> bool:
        """Unload one model; False where none is left."""
        with self._changed:
            there = [slot for slot in self._slots.values() if slot.llm is not None]
            victim = next((slot for slot in there if slot.users == 0), there[0] if there else None)
            if victim is None or victim.llm is None:
                return False
            del self._slots[victim.name]
            self._leaving.add(victim.name)
            self._changed.wait_for(lambda: victim.users == 0 or self._stopping.is_set())
            self._leaving.remove(victim.name)
        victim.llm.close()
        _say(victim.name, f"unloaded, to make room for {name}")
        return True


def _say(name: str, text: str) -> None:
    print(f"{name}: {text}" if name else text, file=sys.stderr, flush=True)
