"""Several models in one server: who is loaded when, and who may be unloaded."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.server.answers import FINISH

from stride import demo
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
        await until(lambda: models.state("a") == "unloading")  # it takes no new requests
        again = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0.02)
        assert machine.open == {"a"}
        assert not waiting.done()
        models.release(held)
        assert await waiting == "b"
        assert await again == "a"

    asyncio.run(run())
    assert machine.loads == ["a", "b", "a"]


def test_one_that_nobody_uses_may_be_unloaded(closing):
    machine = Machine(room=2)
    models = closing(machine.models("a", "b"))

    async def run() -> None:
        held = await models.acquire("a")
        models.unload("a")
        assert machine.open == {"a"}, "it is in use"
        models.release(held)
        models.unload("a")
        models.unload("b")
        assert machine.open == set()
        assert models.state("a") == "unloaded"
        with pytest.raises(NoModelError):
            models.unload("c")
        assert await use(models, "a") == "a"

    asyncio.run(run())


def test_the_only_model_stays(closing):
    machine = Machine(room=1)
    models = closing(machine.models("a"))
    models.start().result()
    models.unload("a")
    assert machine.open == {"a"}


def test_looking_at_a_model_does_not_load_it(scripted_models):
    client, _ = scripted_models({"a": (FINISH,), "b": (FINISH,)})
    for path in ("/props", "/slots"):
        response = client.get(f"{path}?model=b")
        assert response.status_code == 503
        assert "'b' is not loaded" in response.json()["error"]["message"]
        assert client.get(f"{path}?model=c").status_code == 404
    assert [card["status"]["value"] for card in client.get("/v1/models").json()["data"]] == ["unloaded"] * 2
    assert client.ask(model="b").status_code == 200
    assert client.get("/props?model=b").json()["model_alias"] == "b"


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


# --- a process, with real files ---

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ("-m", f"talker={demo.path()}", "-m", f"writer={GOLDEN / 'qwen2.gguf'}")

SMALL_MACHINE = """
import sys, threading
from stride import cli, memory
machine_memory = memory.machine_memory
def room_for_one():
    is_taken = any(thread.name == "stride-engine" for thread in threading.enumerate())
    all = machine_memory()
    return memory.Memory(1 << 20, all.total) if is_taken else all
memory.machine_memory = room_for_one
sys.exit(cli.main(sys.argv[1:]))
"""


class Asking:
    """OpenAI's client, and what a test asks with it."""

    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def states(self) -> dict[str, str]:
        return {model.id: model.status["value"] for model in self.client.models.list()}

    def talk(self, max_tokens: int, **more: Any) -> Any:
        return self.client.chat.completions.create(
            model="talker",
            messages=[{"role": "user", "content": "Hello!"}],
            max_tokens=max_tokens,
            temperature=0,
            extra_body={"ignore_eos": True},
            **more,
        )

    def write(self) -> Any:
        return self.client.completions.create(model="writer", prompt="ab", max_tokens=3, temperature=0)

    def wait(self, states: dict[str, str]) -> None:
        ends = time.monotonic() + 30
        while (there := self.states()) != states:
            assert time.monotonic() < ends, there
            time.sleep(0.005)


def test_models_are_loaded_when_they_are_asked_for(serve):
    server = serve(*FILES, "-c", "1024").start(loads=False)
    ask = Asking(server.url)
    assert ask.states() == {"talker": "unloaded", "writer": "unloaded"}
    assert ask.write().model == "writer"
    assert ask.states() == {"talker": "unloaded", "writer": "loaded"}
    assert ask.talk(2).model == "talker"
    assert ask.states() == {"talker": "loaded", "writer": "loaded"}
    assert ask.client.models.retrieve("writer").meta["n_ctx"] == 1024
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o', only 'talker', 'writer'"):
        ask.client.completions.create(model="gpt-4o", prompt="x")
    assert server.stop() == 0
    assert "unloaded" not in server.log


def test_models_that_do_not_fit_together_take_turns_and_no_request_is_cut(serve):
    server = serve(*FILES, "-c", "4096", program=("-c", SMALL_MACHINE)).start(loads=False)
    ask = Asking(server.url)
    alone = ask.talk(40).choices[0].message.reasoning_content
    with ThreadPoolExecutor(2) as pool:
        stream = ask.talk(3000, stream=True, stream_options={"include_usage": True})
        next(stream)
        written = pool.submit(ask.write)
        ask.wait({"talker": "unloading", "writer": "loading"})  # it takes no more requests, but has one
        again = pool.submit(ask.talk, 40)
        assert not written.done()
        *_, last = stream
        assert last.usage.completion_tokens == 3000
        assert written.result().model == "writer"
        assert again.result().choices[0].message.reasoning_content == alone
    assert ask.states() == {"talker": "loaded", "writer": "unloaded"}
    assert server.stop() == 0
    told = [line.split(" in ")[0] for line in server.log.splitlines() if "ready" in line or "unloaded" in line]
    assert told == [
        "talker: ready",
        "talker: unloaded, to make room for writer",
        "writer: ready",
        "writer: unloaded, to make room for talker",
        "talker: ready",
    ]
