"""Recording how a model routes: it answers prompts, and what its routers choose is noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stride.engine.sampler import Sampler
from stride.errors import RequestError, UnsupportedError
from stride.experts.trace import Recorder
from stride.ops.record import RouteRecorder
from stride.types import SamplingParams

if TYPE_CHECKING:
    from stride.api import LLM

PROMPTS = (
    "Explain to a curious teenager why the sky is blue and sunsets are red.",
    "Write a Python function that parses an ISO 8601 date without any library, with tests.",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "A train leaves at 9:40 and arrives at 13:05, after two stops of 12 minutes. How long did it move? Show each step.",
    "Schreibe einen höflichen Brief an den Vermieter, weil die Heizung seit drei Tagen nicht geht.",
)
"""What is asked where nobody says: prose, code, a story, arithmetic, another language."""


def record(
    llm: LLM, prompts: Sequence[str], n_tokens: int, path: Path, progress: Callable[[int, int], None] | None = None
) -> None:
    """Answer each prompt as a user's message, ``n_tokens`` tokens each at most, and write the trace.

    ``progress`` is called with (tokens generated, tokens at most).

    Raises:
        UnsupportedError: a model without routed experts.
        RequestError: a prompt that does not fit the context.
        StrideError: the file cannot be written.
    """
    shape = llm.config.experts
    if shape is None:
        raise UnsupportedError(f"{llm.name} has no routed experts: there is nothing to cache")
    with Recorder(path, shape) as recorder:
        backend = RouteRecorder(llm.backend, recorder).backend
        for number, prompt in enumerate(prompts):
            ids = llm.tokenize(llm.apply_template([{"role": "user", "content": prompt}]))
            if len(ids) + n_tokens > llm.n_ctx:
                raise RequestError(
                    f"the prompt has {len(ids)} tokens; with {n_tokens} more they pass the context of {llm.n_ctx}"
                )
            session = llm.session(len(ids) + n_tokens, backend)
            sampler = Sampler(SamplingParams(seed=number), ids, llm.config.n_vocab)
            logits = session.feed(ids)
            for done in range(n_tokens):
                if progress is not None:
                    progress(number * n_tokens + done, len(prompts) * n_tokens)
                token = sampler.sample(logits[0])
                if token in llm.tokenizer.eos_ids:
                    break
                sampler.accept(token)
                logits = session.feed((token,))
