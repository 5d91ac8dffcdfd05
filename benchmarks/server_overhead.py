"""Processor time that the server takes for each streamed token, beyond the engine's. Ends in one JSON line.

A model of no work sleeps between tokens, so that each is sent alone, as with a real one. The server's processor time
(all its threads) is compared with that of the same engine when nobody listens.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
import psutil
import uvicorn

from stride import LLM
from stride.engine import Engine, EngineConfig, Finished, Output, Request
from stride.ops.api import Batch, FloatArray, IntArray, KVType
from stride.server import Models, Settings, create_app
from stride.server.process import listen
from stride.types import SamplingParams

CLIENTS = (1, 8)
STEP_SECONDS = 0.003


class Sleeper:
    """A model that says one token, again and again, each time after a while."""

    def __init__(self, n_vocab: int, token_id: int) -> None:
        self.n_vocab = n_vocab
        self.n_embd = 0
        self.windows = (None,)
        self._logits = np.zeros((max(CLIENTS), n_vocab), np.float32)
        self._logits[:, token_id] = 1

    def new_cache(self, n_pages: Sequence[int], kind: KVType) -> None:
        return None

    def page_bytes(self, kind: KVType) -> tuple[int, ...]:
        return (1,) * len(self.windows)

    def copy_page(self, cache: None, group: int, source: int, target: int) -> None:
        """Nothing is in a page."""

    def hidden(self, batch: Batch, cache: None) -> None:
        time.sleep(STEP_SECONDS)

    def logits(self, hidden: None, rows: IntArray) -> FloatArray:
        return self._logits[: len(rows)]

    def states(self, hidden: None, rows: IntArray) -> FloatArray:
        return np.empty((len(rows), 0), np.float32)

    residual = states


def engine_us(engine: Engine, n_sequences: int, n_tokens: int) -> float:
    """Processor time for each token without a server."""
    ended = threading.Semaphore(0)

    def deliver(output: Output) -> None:
        if isinstance(output, Finished):
            ended.release()

    params = SamplingParams(max_tokens=n_tokens, temperature=0)
    started = time.process_time()
    for _ in range(n_sequences):
        engine.submit(Request([1, 2, 3], params, deliver))
    for _ in range(n_sequences):
        ended.acquire()
    return (time.process_time() - started) / (n_sequences * n_tokens) * 1e6


def serve(n_tokens: int) -> None:
    """The server's process: tells its port and the engine's own times, then serves."""
    with LLM() as llm:
        llm.engine.close()
        config = EngineConfig(n_ctx=n_tokens + 512, n_parallel=max(CLIENTS))
        llm.engine = Engine(Sleeper(llm.config.n_vocab, llm.tokenizer.encode("a")[0]), config)
        alone = {str(n): engine_us(llm.engine, n, n_tokens) for n in CLIENTS}
        listener = listen("127.0.0.1", 0)
        print(json.dumps({"port": listener.getsockname()[1], "alone": alone}), flush=True)
        app = create_app(Models.of(llm), Settings())
        config_ = uvicorn.Config(app, log_config=None, access_log=False, http="h11", ws="none", lifespan="off")
        asyncio.run(uvicorn.Server(config_).serve(sockets=[listener]))


def stream(port: int, n_tokens: int, path: str) -> None:
    body = {"max_tokens": n_tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    body |= {"messages": [{"role": "user", "content": "Hello!"}]} if "chat" in path else {"prompt": "Once"}
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", path, json.dumps(body))
    response = connection.getresponse()
    while response.read1():
        pass


def measure(n_tokens: int) -> None:
    """Start a server, stream from it, and tell what it took."""
    command = [sys.executable, __file__, "--serve", "-n", str(n_tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        process = psutil.Process(server.pid)
        results = []
        stream(told["port"], 20, "/v1/chat/completions")
        for n_clients in CLIENTS:
            for path in ("/v1/chat/completions", "/v1/completions", "/completion"):
                before = process.cpu_times()
                threads = [
                    threading.Thread(target=stream, args=(told["port"], n_tokens, path)) for _ in range(n_clients)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                after = process.cpu_times()
                used = (after.user + after.system - before.user - before.system) * 1e6
                each = used / (n_clients * n_tokens)
                results.append(
                    {
                        "clients": n_clients,
                        "path": path,
                        "total_us": round(each, 1),
                        "engine_us": round(told["alone"][str(n_clients)], 1),
                        "server_us": round(each - told["alone"][str(n_clients)], 1),
                    }
                )
                print(results[-1], file=sys.stderr)
        server.terminate()
    print(json.dumps({"tokens": n_tokens, "results": results}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", "--tokens", type=int, default=1000, help="tokens of each stream")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.tokens)
    else:
        measure(options.tokens)


if __name__ == "__main__":
    main()
