"""Clients together: tokens per second that servers generate for all of them, Stride beside llama-server.

    python benchmarks/serving.py -m MODEL --llama-server PATH [--clients 8] [--rounds 3]

Each round starts one server after the other, in an order that rotates, and lets every client ask for completions of
random prompts, one after the other. Both servers get the same context, places and threads; no prompt is asked twice.
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from stride.bench.machine import cpu_name
from stride.bench.statistics import summarize
from stride.ops.cpu import default_threads

START_SECONDS = 300
TOKEN_IDS = (1000, 20000)
"""Prompts are made of ids in this range, which every vocabulary of a real size has."""


@dataclass
class Server:
    """A command without its port, and the tokens per second of each round."""

    name: str
    argv: list[str]
    rates: list[float] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    clients: int
    requests: int
    n_prompt: int
    n_gen: int

    def run(self, url: str, seed: int) -> tuple[float, float]:
        """(generated tokens per second of all clients, median seconds from asking to the first token)."""
        numbers = random.Random(seed)
        prompts = [
            [[numbers.randrange(*TOKEN_IDS) for _ in range(self.n_prompt)] for _ in range(self.requests)]
            for _ in range(self.clients)
        ]
        waits: list[float] = []

        def client(own: list[list[int]]) -> None:
            waits.extend([self._ask(url, prompt) for prompt in own])

        start = time.perf_counter()
        with ThreadPoolExecutor(self.clients) as pool:
            list(pool.map(client, prompts))
        seconds = time.perf_counter() - start
        return self.clients * self.requests * self.n_gen / seconds, statistics.median(waits)

    def _ask(self, url: str, prompt: list[int]) -> float:
        """Seconds to the first piece of the answer, over a connection of its own.

        Raises:
            RuntimeError: the answer has not as many tokens as were asked for.
        """
        body = {
            "prompt": prompt, "max_tokens": self.n_gen, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        start, first, n_tokens = time.perf_counter(), 0.0, 0
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=START_SECONDS) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    first = first or time.perf_counter() - start
                    n_tokens = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", n_tokens)
        if n_tokens != self.n_gen:
            raise RuntimeError(f"{n_tokens} tokens came where {self.n_gen} were asked for")
        return first


def measure(server: Server, load: Load, seed: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    argv = [*server.argv, "--port", str(port)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(url, process)
        Load(1, 1, load.n_prompt, load.n_gen).run(url, seed=-1)  # the first request of a server is slower
        rate, first = load.run(url, seed)
    finally:
        process.terminate()
        process.wait(60)
    server.rates.append(rate)
    server.first_token_seconds.append(first)
    print(f"{server.name}: {rate:.1f} tok/s, first token after {first:.2f} s", file=sys.stderr, flush=True)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Raises RuntimeError where the server ends, or takes too long."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server is not ready: {process.args!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--llama-server", metavar="PATH")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=3, help="of each client, one after the other")
    parser.add_argument("-p", "--n-prompt", type=int, default=128)
    parser.add_argument("-n", "--n-gen", type=int, default=64)
    parser.add_argument("-t", "--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    load = Load(given.clients, given.requests, given.n_prompt, given.n_gen)
    context = given.n_prompt + given.n_gen + 64
    common = ["-m", given.model, "-t", str(given.threads), "-np", str(given.clients)]
    servers = [Server("stride", [sys.executable, "-m", "stride", "serve", *common, "-c", str(context)])]
    if given.llama_server:  # its context is that of all places together
        whole = str(context * given.clients)
        servers.append(Server("llama-server", [given.llama_server, *common, "-c", whole, "-lm", "none"]))
    for number in range(given.rounds):
        turn = number % len(servers)
        for server in servers[turn:] + servers[:turn]:
            measure(server, load, number)

    print(f"{cpu_name()}, {given.threads} threads; {given.clients} clients, {given.requests} requests each:", end=" ")
    print(f"{given.n_prompt} tokens in, {given.n_gen} out; medians of {given.rounds} rounds\n")
    print("| server | tok/s | first token, s | stride / it |\n| --- | ---: | ---: | ---: |")
    own = servers[0]
    for server in servers:
        ratio = summarize([a / b for a, b in zip(own.rates, server.rates, strict=True)])
        shown = "" if server is own or ratio is None else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        rate, first = statistics.median(server.rates), statistics.median(server.first_token_seconds)
        print(f"| {server.name} | {rate:.1f} | {first:.2f} | {shown} |")
    results = [{"name": s.name, "rates": s.rates, "first_token_seconds": s.first_token_seconds} for s in servers]
    print(json.dumps({"benchmark": "serving", "clients": given.clients, "servers": results}))


if __name__ == "__main__":
    main()
