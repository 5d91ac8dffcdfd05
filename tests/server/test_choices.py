"""Several answers to one request: ``n``, several prompts, log probabilities, echo."""

from __future__ import annotations

import json

import pytest
from tests.server.answers import FINISH

from stride.errors import OverloadedError
from stride.types import ChosenToken, ContentDelta, ReasoningDelta, TokenLogprob, TokensDelta


def token(text: str, logprob: float = -0.5) -> TokensDelta:
    other = TokenLogprob(9, b"\xc3", -2.0)
    chosen = TokenLogprob(5, text.encode(), logprob)
    return TokensDelta((ChosenToken(chosen, (chosen, other)),))


ANSWER = (token("hm"), ReasoningDelta("hm"), token("Hel"), ContentDelta("Hel"), token("lo"), ContentDelta("lo"), FINISH)
TEXT = (token("Hel"), ContentDelta("Hel"), token("lo", float("-inf")), ContentDelta("lo"), token("!"), FINISH)


def events(response):
    *frames, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def shown(entry):
    return {name: entry[name] for name in ("token", "logprob", "bytes")}


def test_choices_have_an_index_and_share_the_rest(scripted):
    client, model = scripted(ContentDelta("Hi"), FINISH)
    answer = client.ask(n=3, seed=5).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"Hi"}
    assert [asked[2].seed for asked in model.asked] == [5, 6, 7]
    assert answer["usage"]["prompt_tokens"] == 7, "the prompt counts once"
    assert answer["usage"]["completion_tokens"] == 9


def test_streamed_choices_are_interleaved_by_index(scripted):
    client, _ = scripted(ContentDelta("H"), 0.02, ContentDelta("i"), FINISH)
    chunks = events(client.ask(n=2, stream=True, stream_options={"include_usage": True}))
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    assert not any("usage" in chunk for chunk in chunks[:-1])
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index in (0, 1):
        mine = [choice for choice in choices if choice["index"] == index]
        assert [choice["delta"] for choice in mine] == [
            {"role": "assistant", "content": None},
            {"content": "H"},
            {"content": "i"},
            {},
        ]
        assert mine[-1]["finish_reason"] == "stop"
    assert [(choice["index"], choice["delta"]) for choice in choices[2:4]] == [
        (0, {"content": "H"}),
        (1, {"content": "H"}),
    ]


def test_several_prompts_have_choices_in_their_order(scripted):
    client, model = scripted(ContentDelta("Hi"), FINISH)
    answer = client.ask("/v1/completions", prompt=["a", [1, 2]], n=2, seed=1).json()
    assert [(asked[0], asked[1].seed) for asked in model.asked] == [("a", 1), ("a", 2), ([1, 2], 1), ([1, 2], 2)]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 14, "two prompts, each once"
    assert answer["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
def test_too_many_answers_are_refused(scripted, path):
    client, model = scripted()
    problem = client.ask(path, prompt=["a"] * 33, n=2).json()["error"]
    assert (problem["code"], problem["param"]) == (400, "n")
    assert model.asked == []


def test_where_one_is_refused_the_others_end(scripted):
    client, model = scripted(1.0, FINISH)
    start = model._start

    def third_time_full(*asked):
        if len(model.streams) == 2:
            raise OverloadedError("full")
        return start(*asked)

    model._start = third_time_full
    assert client.ask(n=3).status_code == 429
    assert [stream.cancelled.is_set() for stream in model.streams] == [True, True]


def test_logprobs_of_a_chat(scripted):
    client, model = scripted(*ANSWER)
    (choice,) = client.ask(logprobs=True, top_logprobs=2).json()["choices"]
    assert model.params.logprobs == 2
    content = choice["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["hm", "Hel", "lo"]
    assert shown(content[1]) == {"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]}
    assert content[1]["top_logprobs"] == [
        {"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]},
        {"token": "\ufffd", "logprob": -2.0, "bytes": [0xC3]},
    ]
    assert choice["logprobs"]["refusal"] is None


def test_streamed_logprobs_come_with_their_text(scripted):
    client, _ = scripted(*ANSWER)
    chunks = events(client.ask(logprobs=True, stream=True))
    told = [chunk["choices"][0] for chunk in chunks]
    tokens = [[entry["token"] for entry in (choice["logprobs"] or {"content": []})["content"]] for choice in told]
    assert tokens == [[], ["hm"], ["Hel"], ["lo"], []]


def test_logprobs_of_a_completion(scripted):
    client, _ = scripted(*TEXT)
    (choice,) = client.ask("/v1/completions", prompt="x", logprobs=2).json()["choices"]
    assert choice["logprobs"] == {
        "tokens": ["Hel", "lo", "!"],
        "token_logprobs": [-0.5, -9999.0, -0.5],
        "top_logprobs": [{"Hel": -0.5, "\ufffd": -2.0}, {"lo": -9999.0, "\ufffd": -2.0}, {"!": -0.5, "\ufffd": -2.0}],
        "text_offset": [0, 3, 5],
    }
    chunks = events(client.ask("/v1/completions", prompt="x", logprobs=2, stream=True))
    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks]
    assert offsets == [[0], [3], [5]]


@pytest.mark.parametrize("stream", [False, True])
def test_echo_begins_with_the_prompt(scripted, stream):
    client, _ = scripted(ContentDelta("Hi"), FINISH)
    response = client.ask("/v1/completions", prompt="Say ", echo=True, stream=stream)
    chunks = events(response) if stream else [response.json()]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Say Hi"


def of_prompt(*texts: bytes) -> TokensDelta:
    first, *others = texts
    told = [ChosenToken(TokenLogprob(7, text, -1.0), (TokenLogprob(9, b"x", -0.25),)) for text in others]
    return TokensDelta((ChosenToken(TokenLogprob(1, first, None)), *told))


@pytest.mark.parametrize("stream", [False, True])
def test_echoed_logprobs_begin_with_the_prompts(scripted, stream):
    client, model = scripted(of_prompt(b"A", b"\xc3", b"\xa4", b" b"), *TEXT)
    response = client.ask("/v1/completions", prompt="A\u00e4 b", echo=True, logprobs=1, stream=stream)
    assert model.asked[-1][-1], "the prompt's are asked for"
    choices = [chunk["choices"][0] for chunk in (events(response) if stream else [response.json()])]
    assert "".join(choice["text"] for choice in choices) == "A\u00e4 bHello"
    assert choices[0]["text"] == ("A\u00e4 b" if stream else "A\u00e4 bHello")
    told = {name: [each for choice in choices for each in choice["logprobs"][name]] for name in choices[0]["logprobs"]}
    assert told == {
        "tokens": ["A", "\ufffd", "\ufffd", " b", "Hel", "lo", "!"],
        "token_logprobs": [None, -1.0, -1.0, -1.0, -0.5, -9999.0, -0.5],
        "top_logprobs": [
            None,
            {"x": -0.25, "\ufffd": -1.0},
            {"x": -0.25, "\ufffd": -1.0},
            {"x": -0.25, " b": -1.0},
            {"Hel": -0.5, "\ufffd": -2.0},
            {"lo": -9999.0, "\ufffd": -2.0},
            {"!": -0.5, "\ufffd": -2.0},
        ],
        "text_offset": [0, 1, 1, 2, 4, 7, 9],
    }


def test_a_space_that_the_vocabulary_adds_moves_no_offset(scripted):
    client, _ = scripted(of_prompt(b" A", b" b"), FINISH)
    (choice,) = client.ask("/v1/completions", prompt="A b", echo=True, logprobs=0, max_tokens=0).json()["choices"]
    assert choice["logprobs"]["text_offset"] == [0, 1]


def test_a_prompt_alone_is_measured(demo, demo_llm):
    """As lm-eval-harness asks: token ids, echo, no more than one token; what follows a context, and is it greedy?"""
    context, continuation = demo_llm.tokenize("Once upon a time, "), demo_llm.tokenizer.encode("there was")
    fields = {"prompt": [context + continuation], "echo": True, "logprobs": 1, "temperature": 0, "seed": 1234}
    measured = [demo.ask("/v1/completions", **fields, max_tokens=n).json()["choices"][0]["logprobs"] for n in (0, 1)]
    n = len(context + continuation)
    assert [len(told["tokens"]) for told in measured] == [n, n + 1]
    for name in measured[0]:
        assert measured[0][name] == measured[1][name][:n]
    logprobs, top = measured[1]["token_logprobs"], measured[1]["top_logprobs"]
    assert (logprobs[0], top[0]) == (None, None)
    assert all(mine <= max(likeliest.values()) for mine, likeliest in zip(logprobs[1:], top[1:], strict=True))
    assert logprobs[-1] == max(top[-1].values()), "what was generated is greedy"


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"suffix": "x"}, "suffix"), ({"best_of": 2}, "best_of")],
)
def test_what_completions_cannot_do_is_501(scripted, fields, name):
    client, _ = scripted()
    response = client.ask("/v1/completions", prompt="x", **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (501, name)
