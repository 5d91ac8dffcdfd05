"""Hours in minutes: many clients that ask, stream, call tools, send long prompts, disconnect and err, all at once.

    python benchmarks/soak.py [-m MODEL] [--clients 64] [--minutes 30]

starts `stride serve` and watches its memory. No reply may be lost or somebody else's: some are constrained to a secret
that only their request knows, some are greedy and must be what the same prompt gave alone, before the crowd came. Ends
in one JSON line, and in an error where a reply was wrong, a request was left over, or the server logged an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

Json = dict[str, Any]
REPLY_SECONDS = 300
SAMPLE_SECONDS = 2
WARM_PART = 0.2
"""Of the time, in which caches fill and pools grow; memory must be flat after it."""
KEYS = [f"soak-key-{number}-of-at-least-sixteen-letters" for number in range(4)]
COMPLAINT = re.compile("Traceback|[Ee]rror|never retrieved")
"""In the log of a server that is not well."""
TEXTS = [
    f"{a} {b} and the {c}" for a in ("Once", "Every") for b in ("river", "engine") for c in ("stone", "sea", "night")
]


class WrongReplyError(Exception):
    """A reply was lost, cut, or not what was asked for."""


@dataclass
class Client:
    """One of the crowd: its number, its dice, and how it reaches the server."""

    number: int
    dice: random.Random
    http: httpx.AsyncClient
    expected: dict[str, str]  # greedy continuations of TEXTS
    asked: int = 0

    def secret(self) -> str:
        """Text that no other request has."""
        self.asked += 1
        return f"{self.number}-{self.asked}-{self.dice.randrange(10**9)}"

    async def post(self, path: str, body: Json, status: int = 200) -> Json:
        """The answer of a request that is asked again where there was no place for it."""
        while True:
            response = await self.http.post(path, json=body)
            if response.status_code != 429:
                break
            await asyncio.sleep(float(response.headers["retry-after"]) * self.dice.random())
        if response.status_code != status:
            raise WrongReplyError(f"{path}: status {response.status_code}: {response.text[:300]}")
        answer: Json = response.json()
        return answer

    async def events(self, path: str, body: Json) -> AsyncIterator[Json]:
        """The events of a streamed answer, which must be whole: up to [DONE]."""
        while True:
            async with self.http.stream("POST", path, json={**body, "stream": True}) as response:
                if response.status_code != 429:
                    if response.status_code != 200:
                        raise WrongReplyError(f"{path}: status {response.status_code}")
                    async for line in response.aiter_lines():
                        if line == "data: [DONE]":
                            return
                        if line.startswith("data: "):
                            yield json.loads(line[6:])
                    raise WrongReplyError(f"{path}: the stream ended without [DONE]")
                pause = float(response.headers["retry-after"]) * self.dice.random()
            await asyncio.sleep(pause)


def check(found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongReplyError(f"{found!r} came, not {wanted!r}")


# --- what a client may do ---


async def secret_text(client: Client) -> None:
    secret = client.secret()
    answer = await client.post("/v1/completions", {"prompt": secret, "regex": re.escape(secret), "max_tokens": 100})
    check(answer["choices"][0]["text"], secret)


async def secret_stream(client: Client) -> None:
    secret = client.secret()
    body: Json = {"messages": [{"role": "user", "content": secret}], "max_tokens": 200, "reasoning_budget": 8}
    body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"const": secret}}}
    ids, text = set(), ""
    async for event in client.events("/v1/chat/completions", body):
        ids.add(event["id"])
        text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    check(len(ids), 1)
    check(json.loads(text), secret)


async def greedy(client: Client) -> None:
    text = client.dice.choice(TEXTS)
    answer = await client.post("/v1/completions", greedy_body(text))
    check(answer["choices"][0]["text"], client.expected[text])


def greedy_body(text: str) -> Json:
    return {"prompt": text, "temperature": 0, "max_tokens": 48, "ignore_eos": True}


async def tools(client: Client) -> None:
    secret, other = client.secret(), client.secret()
    body: Json = {"messages": [{"role": "user", "content": "Call both."}], "max_tokens": 2000, "reasoning_budget": 8}
    body["tools"] = [tool("first", secret), tool("second", other)]
    body["tool_choice"] = {"type": "function", "function": {"name": "second"}}
    calls: dict[int, list[str]] = {}
    async for event in client.events("/v1/chat/completions", body):
        for choice in event["choices"]:
            for call in choice["delta"].get("tool_calls") or []:
                name_and_arguments = calls.setdefault(call["index"], ["", ""])
                name_and_arguments[0] += call["function"].get("name") or ""
                name_and_arguments[1] += call["function"].get("arguments") or ""
            if choice["finish_reason"] == "length":
                return  # random weights may call until there is no more room
    if not calls:
        raise WrongReplyError("no tool was called")
    for name, arguments in calls.values():
        check(name, "second")
        check(json.loads(arguments)["secret"], other)


def tool(name: str, secret: str) -> Json:
    parameters: Json = {"type": "object", "properties": {"secret": {"const": secret}}, "required": ["secret"]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


async def long_prompt(client: Client) -> None:
    numbers = " ".join(str(client.dice.randrange(1000)) for _ in range(client.dice.randrange(200, 1500)))
    answer = await client.post("/v1/completions", {"prompt": numbers, "max_tokens": 4, "ignore_eos": True})
    check(answer["usage"]["completion_tokens"], 4)


async def conversation(client: Client) -> None:
    messages: list[Json] = []
    for _ in range(3):
        messages.append({"role": "user", "content": client.secret()})
        answer = await client.post("/v1/chat/completions", {"messages": messages, "max_tokens": 40})
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"] or ""})


async def anthropic(client: Client) -> None:
    body = {"model": "m", "max_tokens": 16, "messages": [{"role": "user", "content": client.secret()}]}
    check((await client.post("/v1/messages", body))["type"], "message")


async def ollama(client: Client) -> None:
    secret = client.secret()
    body: Json = {"model": "", "messages": [{"role": "user", "content": "?"}], "stream": False, "think": False}
    answer = await client.post("/api/chat", {**body, "format": {"const": secret}, "options": {"num_predict": 200}})
    check(json.loads(answer["message"]["content"]), secret)


async def mistake(client: Client) -> None:
    wrong = client.dice.choice(["temperature", "max_tokens", "top_p", "n"])
    answer = await client.post("/v1/chat/completions", {"messages": [], wrong: "much"}, status=400)
    check("error" in answer, True)


async def leave_early(client: Client) -> None:
    """Asks for much and goes: at once, in the queue, in the prompt, or in the middle of the answer."""
    prompt = client.secret() * client.dice.choice([1, 50, 500])
    body = {"prompt": prompt, "max_tokens": 1000, "ignore_eos": True, "stream": True}
    async with client.http.stream("POST", "/v1/completions", json=body) as response:
        left = client.dice.choice([0, 1, 20])
        async for _ in response.aiter_lines():
            left -= 1
            if left < 0:
                break


async def give_up(client: Client) -> None:
    """Has less patience than the answer takes."""
    body = {"prompt": client.secret(), "max_tokens": 2000, "ignore_eos": True}
    try:
        async with asyncio.timeout(client.dice.random()):
            await client.post("/v1/completions", body)
    except TimeoutError:
        pass


ACTS: dict[Callable[[Client], Awaitable[None]], int] = {
    secret_text: 4, secret_stream: 4, greedy: 6, tools: 4, long_prompt: 3, conversation: 3, anthropic: 2, ollama: 2,
    mistake: 1, leave_early: 3, give_up: 2,
}  # fmt: skip
"""What a client does, and how often."""


# --- the crowd ---


@dataclass
class Tally:
    """What happened, and the server's private memory [(second, bytes)]."""

    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)


async def live(client: Client, tally: Tally, end: float) -> None:
    acts, weights = list(ACTS), list(ACTS.values())
    while time.monotonic() < end:
        [act] = client.dice.choices(acts, weights)
        try:
            await act(client)
        except (WrongReplyError, httpx.HTTPError, KeyError, ValueError) as error:
            tally.wrong.append(f"{act.__name__}: {type(error).__name__}: {error}")
            print(tally.wrong[-1], file=sys.stderr, flush=True)
        tally.done[act.__name__] += 1
        await asyncio.sleep(client.dice.expovariate(5))


async def watch(server: psutil.Process, tally: Tally, start: float, end: float) -> None:
    shown = 0.0
    while (now := time.monotonic()) < end:
        tally.memory.append((now - start, server.memory_full_info().uss))
        if now - shown > 30:
            shown, mib = now, tally.memory[-1][1] >> 20
            print(f"{now - start:.0f} s: {tally.done.total()} done, {mib} MiB", file=sys.stderr, flush=True)
        await asyncio.sleep(SAMPLE_SECONDS)


async def run(url: str, server: psutil.Process, n_clients: int, seconds: float) -> tuple[Tally, Json]:
    """(what happened, how much work was left over in the server ten seconds after everybody had gone)."""
    tally = Tally()

    def connection(key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, timeout=REPLY_SECONDS, headers={"authorization": f"Bearer {key}"})

    async with connection(KEYS[0]) as http:
        alone = Client(0, random.Random(0), http, {})
        for text in TEXTS:
            alone.expected[text] = (await alone.post("/v1/completions", greedy_body(text)))["choices"][0]["text"]
        start = time.monotonic()
        end = start + seconds
        clients = [
            Client(number, random.Random(number), connection(KEYS[number % len(KEYS)]), alone.expected)
            for number in range(1, n_clients + 1)
        ]
        await asyncio.gather(watch(server, tally, start, end), *(live(client, tally, end) for client in clients))
        for client in clients:
            await client.http.aclose()
        await asyncio.sleep(10)
        tally.memory.append((time.monotonic() - start, server.memory_full_info().uss))
        metrics = (await http.get("/metrics")).text
    samples = {sample.name: sample.value for f in text_string_to_metric_families(metrics) for sample in f.samples}
    names = ("requests_processing", "requests_deferred", "kv_cache_usage_ratio")
    return tally, {name: samples[f"stride:{name}"] for name in names}


def growth(memory: list[tuple[float, int]]) -> tuple[float, float]:
    """(median MiB after the warm part, MiB per hour from there on: the slope of a straight line)."""
    warm = WARM_PART * memory[-1][0]
    times, sizes = zip(*[(second, n_bytes / 2**20) for second, n_bytes in memory if second >= warm], strict=True)
    return statistics.median(sizes), 3600 * statistics.linear_regression(times, sizes).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="a GGUF file (the embedded demo model)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keys, log = Path(folder, "keys"), Path(folder, "log")
        keys.write_text("\n".join(KEYS))
        keys.chmod(0o600)
        options = ["--port", "0", "-np", "8", "--max-queue", "48", "--cache-ram", "64", "--api-key-file", str(keys)]
        model = ["-m", given.model] if given.model else []
        with log.open("w") as stderr:
            process = subprocess.Popen([sys.executable, "-m", "stride", "serve", *model, *options], stderr=stderr)
        try:
            while "ready in" not in log.read_text():
                if process.poll() is not None:
                    sys.exit(log.read_text())
                time.sleep(0.1)
            found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", log.read_text())
            assert found is not None
            work = run(found[1], psutil.Process(process.pid), given.clients, 60 * given.minutes)
            tally, left_over = asyncio.run(work)
        finally:
            process.terminate()
            status = process.wait(timeout=60)
        complaints = [line for line in log.read_text().splitlines() if COMPLAINT.search(line)]
    median, slope = growth(tally.memory)
    result = {
        "benchmark": "soak",
        "clients": given.clients,
        "minutes": given.minutes,
        "done": dict(tally.done),
        "wrong": len(tally.wrong),
        "left_over": left_over,
        "mib": [n_bytes >> 20 for _, n_bytes in tally.memory[:: max(1, len(tally.memory) // 20)]],
        "mib_median": round(median, 1),
        "mib_per_hour": round(slope, 1),
        "log_complaints": len(complaints),
        "exit_status": status,
    }
    print(*complaints[:20], sep="\n", file=sys.stderr)
    print(json.dumps(result))
    if tally.wrong or complaints or any(left_over.values()) or status:
        sys.exit("not as it should be: see above")


if __name__ == "__main__":
    main()
