#!/usr/bin/env python3
"""What the demo model can do, through Stride's own engine and greedily, on text of the tests' side of the split.

    python demo/evaluate.py [FILE] [--count N] [--exact FILE]

``--exact`` is the same model unquantised (`build.py --exact`): perplexities are compared. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import config
import numpy as np
from batches import encoder
from texts import KINDS, conversations
from texts.calls import Kit, request, system
from texts.conversation import Source
from texts.knowledge import small_talk

from stride import LLM, demo, ops
from stride.bench.client import Answer
from stride.bench.graders.coding import CodingGrader
from stride.bench.tasks import CODING, POST_TASKS, TOOL_CALLS, Task, grade_tools
from stride.models import Decoder, load_model
from stride.ops.api import PAGE_TOKENS, Batch
from stride.types import Message, Tool, ToolCall

SEED = 5


def calls_of(tool_calls: Sequence[ToolCall]) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in tool_calls]


def prompts(n_calls: int) -> Iterator[tuple[list[Message], tuple[Tool, ...], list[tuple[str, object]]]]:
    """Conversations that end with a request for so many calls, their tools, and the calls."""
    source = Source(random.Random(f"{SEED} {n_calls}"), "test")
    while True:
        kit = Kit(source, source.between(1, 4))
        if n_calls == 0:
            question, _ = small_talk(source, with_tools=True)
            yield [*system(source), question], kit.tools, []
            continue
        wishes = kit.wishes(n_calls)
        question = Message("user", request(source, wishes))
        yield [*system(source), question], kit.tools, [(w.offer.name, dict(w.arguments)) for w in wishes]


def exact_calls(llm: LLM, n_calls: int, count: int, shown: int) -> float:
    """Share of prompts that are answered with exactly the calls wanted, in any order."""
    right = 0
    for messages, tools, wanted in islice(prompts(n_calls), count):
        answer = llm.chat(messages, tools, temperature=0, max_tokens=400)
        try:
            found = calls_of(answer.message.tool_calls)
        except ValueError:
            found = [("no JSON", answer.message.tool_calls)]
        if sorted(found, key=str) == sorted(wanted, key=str):
            right += 1
        elif shown:
            shown -= 1
            said = answer.message
            print(f"  {messages[-1].content!r}\n    wanted {wanted}\n    found  {found} {said.content or ''!r:.80}")
            print(f"    thought {said.reasoning!r}")
    return right / count


def perplexities(llm: LLM, count: int) -> dict[str, float]:
    """Of the model's own tokens in test conversations, by kind of text and of all."""
    sums: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for conversation in islice(conversations("evaluation", "test"), count):
        ids, weights = encoder().encode(conversation)
        logits = llm.logits(ids)[:-1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(ids) - 1), ids[1:]]
        own = weights[1:] >= 1
        for kind in (conversation.kind, "all"):
            sums[kind] += float(losses[own].sum())
            numbers[kind] += int(own.sum())
    return {kind: math.exp(sums[kind] / numbers[kind]) for kind in (*KINDS, "all") if numbers[kind]}


def acceptance(path: Path, llm: LLM, count: int) -> list[float]:
    """Of greedy answers: how often head k's token is the trunk's, where those of the heads before were."""
    decoder = load_model(path, ops.load("cpu"))
    tried, taken = np.zeros(config.N_DRAFT), np.zeros(config.N_DRAFT)
    makers: list[Callable[[], Iterator]] = [lambda: prompts(1), lambda: prompts(2), lambda: prompts(0)]
    for make in makers:
        for messages, tools, _ in islice(make(), count):
            rendered = llm.template.render(messages, tools)
            start = llm.tokenizer.encode_prompt(rendered.pieces)
            answer = llm.generate(start, temperature=0, max_tokens=300, logprobs=0)
            ids = [*start, *(token.chosen.token_id for token in answer.tokens)]
            greedy, drafts = choices(decoder, np.array(ids, np.int32))
            for t in range(len(start) - 1, len(ids) - 2 * config.N_DRAFT):
                for k in range(config.N_DRAFT):
                    tried[k] += 1
                    if drafts[k][t] != greedy[t + 1 + k]:
                        break
                    taken[k] += 1
    return (taken / tried).round(4).tolist()


def choices(decoder: Decoder, ids: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The likeliest token after each one by the trunk, and those further ahead by each head."""
    n = len(ids) - config.N_DRAFT
    n_pages = -(-n // PAGE_TOKENS)
    cache = decoder.new_cache([n_pages] * len(decoder.windows), "f32")
    tables = (np.arange(n_pages, dtype=np.int32)[None],) * len(decoder.windows)
    every = np.arange(n, dtype=np.int32)

    def batch(first: int) -> Batch:
        return Batch(ids[first : first + n], every, np.array([0, n], np.int32), tables, every)

    hidden = decoder.hidden(batch(0), cache)
    state, logits = decoder.residual(hidden, every), decoder.logits(hidden, every)
    drafts = []
    greedy = logits.argmax(-1)
    for index in range(config.N_DRAFT):
        state, logits = decoder.draft(index, state, batch(index + 1), cache)
        drafts.append(logits.argmax(-1))
    return greedy, drafts


def post(llm: LLM, task: Task, grade_code: bool) -> str:
    """The answer to one of the post's prompts, printed, and what is to be said of it."""
    body = task.body(nonce="5f2c91ab", seed=1, model=None)
    answer = llm.chat(body["messages"], body.get("tools"), temperature=0, max_tokens=task.max_tokens)
    message = answer.message
    print(f"--- {task.title}: {task.prompt}\n[thought] {message.reasoning}\n{message.content or ''}")
    for call in message.tool_calls:
        print(f"[call] {call.name}({call.arguments})")
    said = Answer(message.content or "", message.reasoning or "", message.tool_calls, answer.finish_reason)
    if task is TOOL_CALLS:
        return grade_tools(said).score
    if task is CODING:
        grade = CodingGrader()(said) if grade_code else None
        return grade.score if grade else f"{answer.usage.completion_tokens} tokens, not judged"
    sentences = len(re.findall(r"[.!?](?:\s|$)", message.content or ""))
    return f"{'a thought, then ' if message.reasoning else ''}{sentences} sentences"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the demo model can do.")
    parser.add_argument("file", type=Path, nargs="?", default=demo.path())
    parser.add_argument("--exact", type=Path, help="the same weights unquantised, whose perplexity is compared")
    parser.add_argument("--count", type=int, default=200, help="prompts of each kind")
    parser.add_argument("--shown", type=int, default=3, help="wrong answers printed of each kind")
    parser.add_argument("--code", action="store_true", help="judge the coding answer as the benchmark does")
    parser.add_argument("--drafts", type=int, default=20, help="answers of each kind on which drafting is measured")
    arguments = parser.parse_args()
    found: dict[str, object] = {}
    with LLM(arguments.file, n_ctx=4096) as llm:
        for name, n_calls in {"single": 1, "parallel": 2, "none": 0}.items():
            found[name] = exact_calls(llm, n_calls, arguments.count, arguments.shown)
            print(f"{name}: {found[name]:.3f} exact", flush=True)
        found |= {task.name: post(llm, task, arguments.code) for task in POST_TASKS}
        print(json.dumps(found), flush=True)
        found["perplexity"] = perplexities(llm, arguments.count)
        if arguments.drafts:
            found["draft acceptance"] = acceptance(arguments.file, llm, arguments.drafts)
    if arguments.exact:
        with LLM(arguments.exact, n_ctx=4096) as llm:
            found["exact perplexity"] = perplexities(llm, arguments.count)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
