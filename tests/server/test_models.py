"""Several models in one server: who is loaded when, and who may be unloaded."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from stride.errors import InsufficientMemoryError, RequestError, StrideError
from stride.server.errors import LoadingError, NoModelError
from stride.server.models import Models


@dataclass
class Machine:
    """Memory for ``room`` models; fakes of models that take one place each."""

    room: int
    loads: list[str] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def load(self, name: str) -> Any:
        def load(stopping: threading.Event) -> Any:
            gate = self.gates.get(name)
            while gate is not None and not gate.wait(0.01):
                if stopping.is_set():
                    raise StrideError("stopped")
            if name in self.broken:
                raise StrideError(f"{name} is broken")
            if len(self.open) >= self.room:
                raise InsufficientMemoryError("no room", could_ever_fit=self.room > 0)
            self.loads.append(name)
            self.open.add(name)
            return Fake(name, self)

        return load

    def models(self, *names: str) -> Models:
        return Models({name: self.load(name) for name in names})


@dataclass
class Fake:
    name: str
    machine: Machine

    def close(self) -> None:
        self.machine.open.remove(self.name)


async def use(models: Models, name: str) -> str:
    slot = await models.acquire(name)
    try:
        return slot.llm.name
    finally:
        models.release(slot)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def closing():
    """Closes what it is given when the test ends."""
    made: list[Models] = []
    yield lambda models: made.append(models) or models
    for models in made:
        models.close()


def test_loaded_at_the_first_request_and_kept(closing):
    machine = Machine(room=2)
    models = closing(machine.models("a", "b"))
    assert [models.state(name) for name in models.names] == ["unloaded", "unloaded"]
    assert asyncio.run(use(models, "a")) == "a"
    assert asyncio.run(use(models, "a")) == "a"
    assert machine.loads == ["a"]
    assert [models.state(name) for name in models.names] == ["loaded", "unloaded"]


def test_the_least_recently_used_makes_room(closing):
    machine = Machine(room=2)
    models = closing(machine.models("a", "b", "c"))
    for name in ("a", "b", "a", "c"):
        asyncio.run(use(models, name))
    assert machine.open == {"a", "c"}
    assert machine.loads == ["a", "b", "c"]


def test_an_idle_model_goes_before_one_in_use(closing):
    machine = Machine(room=2)
    models = closing(machine.models("a", "b", "c"))

    async def run() -> None:
        held = await models.acquire("a")
        await use(models, "b")
        await use(models, "c")  # a is the least recently used, but in use
        assert machine.open == {"a", "c"}
        models.release(held)

    asyncio.run(run())


def test_a_model_is_never_unloaded_in_mid_request(closing):
    machine = Machine(room=1)
    models = closing(machine.models("a", "b"))

    async def run() -> None:
        held = await models.acquire("a")
        waiting = asyncio.create_task(use(models, "b"))
        await until(lambda: models.state("a") == "unloaded")  # it takes no new requests
        again = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.02)
        assert machine.open == {"a"}
        assert not waiting.done()
        models.release(held)
        assert await waiting == "b"
        assert await again == "a"

    asyncio.run(run())
    assert machine.loads == ["a", "b", "a"]


def test_others_go_on_while_one_is_loaded(closing):
    machine = Machine(room=2, gates={"slow": threading.Event()})
    models = closing(machine.models("quick", "slow"))

    async def run() -> None:
        await use(models, "quick")
        waiting = [asyncio.create_task(use(models, "slow")) for _ in range(50)]
        await asyncio.sleep(0)
        assert models.state("slow") == "loading"
        assert await use(models, "quick") == "quick"
        machine.gates["slow"].set()
        assert await asyncio.gather(*waiting) == ["slow"] * 50

    asyncio.run(run())
    assert machine.loads == ["quick", "slow"]


def test_who_gives_up_waiting_holds_nothing(closing):
    machine = Machine(room=1, gates={"a": threading.Event()})
    models = closing(machine.models("a", "b"))

    async def run() -> None:
        waiting = asyncio.create_task(models.acquire("a"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        machine.gates["a"].set()
        assert await use(models, "b") == "b"

    asyncio.run(run())
    assert machine.open == {"b"}


def test_one_that_cannot_be_loaded_fails_those_who_asked_and_is_tried_again(closing):
    machine = Machine(room=1, broken={"a"})
    models = closing(machine.models("a", "b"))
    for _ in range(2):
        with pytest.raises(StrideError, match="a is broken"):
            asyncio.run(use(models, "a"))
        assert models.state("a") == "unloaded"
    assert asyncio.run(use(models, "b")) == "b"
    machine.broken.clear()
    assert asyncio.run(use(models, "a")) == "a"


def test_what_can_never_fit_unloads_nobody(closing):
    machine = Machine(room=1)
    models = closing(machine.models("a", "b"))
    asyncio.run(use(models, "a"))
    machine.room = 0
    with pytest.raises(InsufficientMemoryError):
        asyncio.run(use(models, "b"))
    assert machine.open == {"a"}


def test_names(closing):
    models = closing(Machine(room=2).models("a", "b"))
    with pytest.raises(NoModelError, match="no model 'c', only 'a', 'b'"):
        asyncio.run(models.acquire("c"))
    with pytest.raises(RequestError, match="must be one of a, b"):
        asyncio.run(models.acquire(None))


def test_the_only_model_has_every_name_once_it_is_there(closing):
    machine = Machine(room=1, gates={"a": threading.Event()})
    models = closing(machine.models("a"))
    started = models.start()
    for name in ("a", None, "gpt-4o"):
        with pytest.raises(LoadingError):
            asyncio.run(models.acquire(name))
    machine.gates["a"].set()
    started.result(10)
    for name in ("a", None, "gpt-4o"):
        assert asyncio.run(use(models, name)) == "a"


def test_closing_ends_loading_and_those_who_wait():
    machine = Machine(room=2, gates={"b": threading.Event(), "c": threading.Event()})
    models = machine.models("a", "b", "c")

    async def run() -> None:
        await use(models, "a")
        waiting = [asyncio.create_task(use(models, name)) for name in ("b", "c")]
        await asyncio.sleep(0)
        await asyncio.to_thread(models.close)
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, StrideError)

    asyncio.run(run())
    assert machine.open == set()


def test_many_threads_and_models_agree(closing):
    machine = Machine(room=2)
    names = ("a", "b", "c", "d")
    models = closing(machine.models(*names))
    with ThreadPoolExecutor(8) as pool:
        asked = [names[i * i % 4 if i % 3 else i % 4] for i in range(64)]
        assert list(pool.map(lambda name: asyncio.run(use(models, name)), asked)) == asked
    assert len(machine.open) <= 2
