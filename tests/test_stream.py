"""One request's events: what the wire needs of them besides text."""

from __future__ import annotations

import asyncio

import pytest

from stride import LLM
from stride.stream import completion
from stride.types import ContentDelta, Finish, SamplingParams, TokensDelta


@pytest.fixture(scope="module")
def llm():
    with LLM(n_ctx=256) as llm:
        yield llm


def test_tokens_add_up_to_the_text(llm):
    done = llm.generate("class", temperature=0, max_tokens=30, logprobs=2)
    assert len(done.tokens) == 30
    data = b"".join(b"" if llm.tokenizer.is_special(t.chosen.token_id) else t.chosen.text for t in done.tokens)
    assert data.decode(errors="replace") == done.text
    for token in done.tokens:
        assert token.top[0].token_id == token.chosen.token_id
        assert len(token.top) == 2
    assert llm.generate("Once", temperature=0, max_tokens=3).tokens == ()


def test_logprobs_are_those_of_the_logits(llm):
    ids = llm.tokenize("Once")
    done = llm.generate(ids, temperature=0, max_tokens=1, logprobs=0)
    (token,) = done.tokens
    assert token.top == ()
    logits = llm.logits(ids)[-1].astype("float64")
    logits -= logits.max()
    import numpy as np

    expected = logits - np.log(np.exp(logits).sum())
    assert token.chosen.logprob == pytest.approx(expected[token.chosen.token_id], abs=0.02)


@pytest.mark.parametrize("prompt", ["Once upon a time there was a b\u00e4r \U0001f43b", [5, 300, 41, 7, 7, 9] * 20])
def test_a_prompts_logprobs_are_those_of_each_of_its_beginnings(llm, prompt):
    first, *tokens = (
        llm.stream(
            prompt, SamplingParams(temperature=0, max_tokens=1, logprobs=3, ignore_eos=True), prompt_logprobs=True
        )
        .result()
        .tokens
    )
    ids = llm.tokenize(prompt) if isinstance(prompt, str) else prompt
    has_bos = isinstance(prompt, str) and llm.tokenizer.add_bos
    assert [token.chosen.token_id for token in (first, *tokens)][:-1] == ids[has_bos:]
    assert (first.chosen.logprob, first.top) == (None, ())
    for n, token in enumerate(tokens, 1 + has_bos):
        alone = llm.generate(ids[:n], temperature=0, max_tokens=1, logprobs=3, cache_prompt=False).tokens[0]
        assert token.top == alone.top


def test_tokens_come_just_before_their_text_and_never_split(llm):
    events = list(llm.generate("Once", seed=3, max_tokens=40, ignore_eos=True, logprobs=0, stream=True))
    told = b""
    shown = ""
    for event in events:
        if isinstance(event, TokensDelta):
            told += b"".join(token.chosen.text for token in event.tokens)
        elif isinstance(event, ContentDelta):
            shown += event.text
            assert told.decode(errors="replace").startswith(shown)
    assert isinstance(events[-1], Finish)


def test_the_tokens_of_a_stop_string_are_not_told(llm):
    free = llm.generate("Once", temperature=0, max_tokens=30, ignore_eos=True, logprobs=0)
    stop = free.text[10:13]
    done = llm.generate("Once", temperature=0, max_tokens=30, ignore_eos=True, logprobs=0, stop=stop)
    assert done.stop == stop
    assert done.finish_reason == "stop"
    assert done.text == free.text[: free.text.index(stop)]
    n = len(done.tokens)
    assert done.tokens == free.tokens[:n]
    assert len(b"".join(token.chosen.text for token in done.tokens[:-1])) < len(done.text.encode()) or n == 0
    assert free.stop is None


def test_dry_ends_a_repetition(llm):
    def repeats(**options):
        return llm.generate("a b c d " * 12 + "a b", temperature=0, max_tokens=1, logprobs=5, **options)

    plain = repeats().tokens[0].chosen.token_id
    ids = llm.tokenize("a b c d " * 12 + "a b")
    continued = ids[len(llm.tokenize("a b c d " * 11 + "a b"))]
    biased = {continued: 50.0}
    assert repeats(logit_bias=biased).tokens[0].chosen.token_id == continued
    punished = repeats(logit_bias=biased, dry_multiplier=100.0, dry_penalty_last_n=-1)
    assert punished.tokens[0].chosen.token_id != continued
    assert plain >= 0


def test_reading_asynchronously_gives_the_same(llm):
    async def read():
        return [event async for event in llm.generate("Once", temperature=0, max_tokens=12, stream=True)]

    events = asyncio.run(read())
    assert completion(events).text == llm.generate("Once", temperature=0, max_tokens=12).text
