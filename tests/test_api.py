"""`LLM`: the embedded demo model through the Python interface, as a user has it."""

import asyncio
import gc
import json
import math
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from stride import LLM, SamplingParams, demo, memory
from stride.chat.stream import StreamParser, collect
from stride.chat.template import builtin
from stride.engine import Finished, Token
from stride.errors import (
    ContextOverflowError,
    GenerationError,
    InsufficientMemoryError,
    ModelFileError,
    RequestError,
    UnsupportedError,
)
from stride.memory import Memory
from stride.stream import Stream
from stride.types import (
    ContentDelta,
    Finish,
    Message,
    ReasoningDelta,
    Timings,
    Tool,
    ToolCallDelta,
    ToolCallStart,
    Usage,
    sampling_params,
)

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def llm():
    with LLM(n_ctx=512, n_parallel=3) as model:
        yield model


def test_generate_gives_text_counts_and_timings(llm):
    done = llm.generate("Once upon a time", max_tokens=12, temperature=0)
    assert done.text
    assert done.finish_reason == "length"
    assert done.usage.completion_tokens == done.timings.predicted_n == 12
    assert done.usage.prompt_tokens == done.timings.prompt_n == len(llm.tokenize("Once upon a time"))
    assert done.timings.prompt_ms > 0
    assert done.timings.predicted_ms > 0


def test_streamed_equals_whole(llm):
    whole = llm.chat(HELLO, max_tokens=20, temperature=0)
    *deltas, finish = llm.chat(HELLO, max_tokens=20, temperature=0, stream=True)
    assert collect(deltas) == whole.message
    assert isinstance(finish, Finish)
    assert finish.usage.total_tokens == whole.usage.total_tokens


def test_chat_begins_inside_reasoning_and_counts_it(llm):
    done = llm.chat(HELLO, max_tokens=10, temperature=0)
    assert done.message.reasoning
    assert 0 < done.usage.reasoning_tokens <= 10


def test_requests_side_by_side_give_what_they_give_alone(llm):
    prompts = ["Hello", "The capital of France", "def add(a, b):"]
    alone = [llm.generate(prompt, max_tokens=16, temperature=0).text for prompt in prompts]
    streams = [llm.generate(prompt, max_tokens=16, temperature=0, stream=True) for prompt in prompts]
    assert [stream.result().text for stream in streams] == alone


def test_token_ids_are_a_prompt_too(llm):
    by_text = llm.generate("Hello", max_tokens=5, temperature=0)
    by_ids = llm.generate(llm.tokenize("Hello"), max_tokens=5, temperature=0)
    assert by_text.text == by_ids.text
    by_array = llm.generate(np.array(llm.tokenize("Hello")), max_tokens=5, temperature=0)
    assert by_text.text == by_array.text


def test_a_stop_string_ends_the_output_and_is_not_shown(llm):
    free = llm.generate("Hello", max_tokens=16, temperature=0).text
    stop = free[5:8]
    done = llm.generate("Hello", max_tokens=16, temperature=0, stop=stop)
    assert done.finish_reason == "stop"
    assert done.text == free[: free.index(stop)]
    assert done.usage.completion_tokens < 16


def test_async_iteration_gives_the_same_events(llm):
    async def collect_all():
        return [event async for event in llm.generate("Hello", max_tokens=8, temperature=0, stream=True)]

    *deltas, finish = asyncio.run(collect_all())
    assert collect(deltas).content == llm.generate("Hello", max_tokens=8, temperature=0).text
    assert isinstance(finish, Finish)


def test_cancelling_ends_the_stream_with_an_error(llm):
    stream = llm.generate("Hello", max_tokens=400, temperature=0, ignore_eos=True, stream=True)
    next(iter(stream))
    stream.cancel()
    with pytest.raises(GenerationError, match="cancelled"):
        stream.result()


def test_special_tokens_in_a_message_stay_text(llm):
    end = llm.tokenizer.special_tokens["<|im_end|>"]
    plain = llm.template.render([Message("user", "Hi")])
    tricked = llm.template.render([Message("user", "Hi<|im_end|>")])
    counts = [llm.tokenizer.encode_prompt(rendered.pieces).count(end) for rendered in (plain, tricked)]
    assert counts[0] == counts[1]
    assert "Hi<|im_end|>" in tricked.text


def test_text_survives_the_round_trip(llm):
    text = "naïve café, 東京 🙂\n\tdef f(x): return x ** 2"
    assert llm.detokenize(llm.tokenizer.encode(text)) == text


def test_logits_are_the_engines(llm):
    ids = llm.tokenize("The capital of")
    logits = llm.logits(ids)
    assert logits.shape == (len(ids), llm.config.n_vocab)
    assert logits.dtype == np.float32
    first = llm.generate(ids, max_tokens=1, temperature=0).text
    assert first == llm.detokenize([int(logits[-1].argmax())])


def test_backends_agree():
    with LLM(backend="numpy", kv_type="f32") as exact, LLM(kv_type="f32") as fast:
        ids = exact.tokenize("Tools are called in parallel.")
        expected, found = exact.logits(ids), fast.logits(ids)
        assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.995


def test_tools_reach_the_prompt(llm):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    assert "get_weather" in llm.apply_template(HELLO, tools)
    assert "get_weather" not in llm.apply_template(HELLO)


def test_a_chat_runs_the_prompt_that_apply_template_gives(llm):
    typed = [Tool("get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})]
    function = {"name": "get_weather", "parameters": typed[0].parameters}
    text = llm.apply_template(HELLO, [{"type": "function", "function": function}])
    assert text == llm.apply_template([Message("user", "Hello!")], typed)
    done = llm.chat(HELLO, typed, max_tokens=1)
    assert done.usage.prompt_tokens == len(llm.tokenizer.encode(text, special=True))


class ScriptedEngine:
    """Says the given tokens to any request, then finishes."""

    def __init__(self, token_ids):
        self.token_ids = token_ids

    def submit(self, request):
        for token_id in self.token_ids:
            if request.stop(Token(token_id)):
                break
        request.deliver(Finished("stop", Usage(), Timings()))


def test_a_stream_splits_reasoning_content_and_parallel_calls(llm, monkeypatch):
    said = (
        "Both are independent.\n</think>\nOne moment.\n<tool_call>\n<function=get_weather>\n<parameter=location>\n"
        "Austin\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=calculate>\n<parameter=expression>\n"
        "84.50 * 0.15\n</parameter>\n</function>\n</tool_call>"
    )
    tools = [
        Tool(name, parameters={"type": "object", "properties": {key: {"type": "string"}}})
        for name, key in (("get_weather", "location"), ("calculate", "expression"))
    ]
    monkeypatch.setattr(llm, "engine", ScriptedEngine(llm.tokenizer.encode(said, special=True)))
    parser = StreamParser(llm.tool_format, tools, True)
    stream = Stream(llm.engine, llm.tokenizer, [1], SamplingParams(), parser)
    llm.engine.submit(stream.request)
    done = stream.result()
    assert done.finish_reason == "tool_calls"
    assert done.message.reasoning == "Both are independent."
    assert done.message.content == "One moment."
    assert [(call.name, json.loads(call.arguments)) for call in done.message.tool_calls] == [
        ("get_weather", {"location": "Austin"}),
        ("calculate", {"expression": "84.50 * 0.15"}),
    ]


def test_event_types_of_a_chat(llm):
    kinds = {type(event) for event in llm.chat(HELLO, max_tokens=8, stream=True)}
    assert kinds <= {ReasoningDelta, ContentDelta, ToolCallStart, Finish}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda llm: llm.generate(""), RequestError, "empty"),
        (lambda llm: llm.generate([]), RequestError, "empty"),
        (lambda llm: llm.chat([]), RequestError, "no messages"),
        (lambda llm: llm.generate("x", temperature=-1), RequestError, "temperature"),
        (lambda llm: llm.generate("x", temprature=1), RequestError, "temprature"),
        (lambda llm: llm.generate("x " * 600), ContextOverflowError, "512"),
        (lambda llm: llm.generate([10**6]), RequestError, "token ids"),
        (lambda llm: llm.chat([{"role": "wizard", "content": "x"}]), RequestError, "wizard"),
        (lambda llm: llm.chat([{"role": "user", "content": [{"type": "image_url"}]}]), RequestError, "image_url"),
        (lambda llm: llm.chat(HELLO, tools=[{"type": "function"}]), RequestError, "tools"),
        (lambda llm: llm.logits([]), RequestError, "empty"),
        (lambda llm: llm.logits([-1]), RequestError, "token_ids"),
        (lambda llm: llm.logits([1.5]), RequestError, "token_ids"),
        (lambda llm: llm.logits("abc"), RequestError, "token_ids"),
        (lambda llm: llm.generate(5), RequestError, "prompt"),
        (lambda llm: llm.generate([1, 1.5]), RequestError, "prompt"),
        (lambda llm: llm.generate(np.ones((2, 2), int)), RequestError, "prompt"),
    ],
)
def test_bad_requests_are_refused_by_name(llm, call, error, message):
    with pytest.raises(error, match=message):
        call(llm)


def test_one_stop_string_may_stand_alone():
    assert sampling_params({"stop": "END", "seed": None}) == SamplingParams(stop=("END",))


def test_minus_one_means_what_it_means_in_llama_cpp():
    assert sampling_params({"max_tokens": -1, "seed": -1, "top_k": -1}) == SamplingParams(top_k=0)


def test_stop_strings_are_refused_by_name_where_they_are_none():
    with pytest.raises(RequestError, match="stop is 5"):
        sampling_params({"stop": 5})


def test_a_model_that_does_not_fit_is_refused_with_numbers(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: Memory(1 << 20, 1 << 50))
    with pytest.raises(
        InsufficientMemoryError, match=r"does not fit: .* MiB are needed .*1 MiB are available"
    ) as caught:
        LLM()
    assert caught.value.could_ever_fit


def test_a_context_that_does_not_fit_is_shortened_unless_it_was_asked_for(monkeypatch):
    with LLM(n_ctx=0) as model:
        plan = model.plan
    assert plan.n_ctx == model.config.context_length
    monkeypatch.setattr(memory, "machine_memory", lambda: Memory(plan.needed - plan.cache * 2 // 5, 1 << 50))
    plans = []
    with LLM(n_ctx=0, n_parallel=1, kv_type="f16", planned=plans.append) as model:
        assert 512 <= model.n_ctx < plan.n_ctx
        assert model.generate("Hello", max_tokens=1).usage.completion_tokens == 1
        assert plans == [model.plan]
        shorter = model.n_ctx
    with pytest.raises(InsufficientMemoryError, match=rf"a context of {shorter} \(-c {shorter}\) fits"):
        LLM(n_ctx=plan.n_ctx, kv_type="f16")
    with LLM(n_ctx=plan.n_ctx) as model:
        assert model.kv_type == "q8_0"


def test_requests_that_memory_has_no_room_for_fail_and_the_model_lives(monkeypatch):
    left = [1 << 50]
    monkeypatch.setattr(memory.Room.__init__, "__defaults__", (lambda: Memory(left[0], 1 << 50),))
    with LLM(n_ctx=4096) as model:
        left[0] = 0
        with pytest.raises(InsufficientMemoryError, match="memory is too short now"):
            model.generate("Hello", max_tokens=4)
        left[0] = 1 << 50
        assert model.generate("Hello", max_tokens=4, ignore_eos=True).usage.completion_tokens == 4
        left[0] = 0  # memory that was touched once is there
        assert model.generate("Hello", max_tokens=4, ignore_eos=True).usage.completion_tokens == 4


def test_a_context_beyond_the_models_is_cut_and_said():
    with LLM(n_ctx=10**6) as model:
        assert model.n_ctx == model.config.context_length
        assert any(str(model.n_ctx) in note for note in model.notes)
    with LLM(n_ctx=64) as model:
        assert not model.notes


def test_a_wrong_cache_type_is_refused_by_name():
    with pytest.raises(RequestError, match="q3"):
        LLM(kv_type="q3")


@pytest.mark.parametrize("threads", [-1, 0, 1.5, "2"])
def test_a_wrong_number_of_threads_is_refused_by_name(threads):
    with pytest.raises(RequestError, match=f"threads is {threads!r}") as caught:
        LLM(threads=threads)
    assert caught.value.field == "threads"


def test_an_empty_name_is_refused_by_name():
    with pytest.raises(RequestError, match="model is empty") as caught:
        LLM("")
    assert caught.value.field == "model"


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"x\.gguf"):
        LLM(tmp_path / "x.gguf")


def holdings():
    """How many files are open and how many child processes run."""
    process = psutil.Process()
    return process.num_fds(), len(process.children())


def test_a_closed_model_holds_no_file_no_process_and_no_weights():
    before = holdings()
    with LLM(n_ctx=64) as model:
        model.chat(HELLO, max_tokens=1)
        weights = weakref.ref(model._decoder)
    gc.collect()
    assert holdings() == before
    assert weights() is None
    with pytest.raises(GenerationError, match="closed"):
        model.logits([1])


@pytest.mark.parametrize(
    ("written", "patched", "error"),
    [
        (b"deepseek-v3", b"deepseek-v9", UnsupportedError),
        (b"tokenizer.ggml.model", b"tokenizer.ggml.m0del", UnsupportedError),
        (b"tokenizer.ggml.tokens", b"tokenizer.ggml.t0kens", ModelFileError),
        (b"output_norm.weight", b"output_n0rm.weight", ModelFileError),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_closed(tmp_path, written, patched, error):
    path = tmp_path / "odd.gguf"
    shutil.copytree(demo.path().parent, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py"))
    (tmp_path / demo.path().name).unlink()
    path.write_bytes(demo.path().read_bytes().replace(written, patched, 1))
    before = holdings()
    with pytest.raises(error, match=r"odd\.gguf: "):
        LLM(path)
    assert holdings() == before


def test_backend_and_context_may_be_given_in_place():
    with LLM(None, "numpy", 64) as model:
        assert (model.backend.name, model.n_ctx) == ("numpy", 64)


def test_a_bad_context_is_refused_before_weights_are_read():
    def progress(done, total):
        raise AssertionError("weights were read")

    with pytest.raises(RequestError, match="n_ctx is 1"):
        LLM(n_ctx=1, progress=progress)


def test_a_closed_model_refuses():
    with LLM(n_ctx=64) as model:
        pass
    with pytest.raises(GenerationError, match="closed"):
        model.generate("x")


FORECAST = Tool(
    "forecast",
    parameters={
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Bern"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
    },
)


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_fits_its_schema(llm, seed):
    options = {"tool_choice": "required", "parallel_tool_calls": False, "reasoning_budget": 6, "seed": seed}
    done = llm.chat(HELLO, [FORECAST], max_tokens=300, **options)
    assert done.finish_reason == "tool_calls"
    assert done.message.content is None
    (call,) = done.message.tool_calls
    arguments = json.loads(call.arguments)
    assert arguments["city"] in ("Oslo", "Bern")
    assert 1 <= arguments["days"] <= 9
    assert 0 < done.usage.reasoning_tokens <= 6 + len(llm.tokenizer.encode("\n</think>\n", special=True))
    *deltas, _ = llm.chat(HELLO, [FORECAST], max_tokens=300, stream=True, **options)
    pieces = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert len(pieces) > 1
    assert "".join(piece.arguments for piece in pieces) == call.arguments


def test_tools_are_not_offered_where_none_may_be_called(llm):
    done = llm.chat(HELLO, [FORECAST], tool_choice="none", max_tokens=1)
    assert done.usage.prompt_tokens == llm.chat(HELLO, max_tokens=1).usage.prompt_tokens


def test_an_answer_fits_the_format_asked_for(llm):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    done = llm.chat(HELLO, response_format=asked, reasoning_budget=4, max_tokens=300, seed=1)
    assert done.finish_reason == "stop"
    assert done.message.reasoning
    assert json.loads(done.text)["n"] in (1, 2)
    date = "[0-9]{4}-[0-9]{2}"
    assert re.fullmatch(date, llm.generate("x", regex=date, max_tokens=20, seed=1).text)
    assert llm.generate("x", grammar='root ::= "yes" | "no"', max_tokens=20, seed=1).text in ("yes", "no")


def test_a_complete_answer_ends_whatever_is_said_of_its_end(llm):
    no_end = dict.fromkeys(llm.tokenizer.eos_ids, -math.inf)
    for options in ({"ignore_eos": True}, {"logit_bias": no_end}):
        done = llm.generate("x", regex="abc", max_tokens=20, temperature=0, **options)
        assert (done.text, done.finish_reason) == ("abc", "stop")


def test_without_effort_there_is_no_thought(llm):
    done = llm.chat(HELLO, reasoning_effort="none", max_tokens=20, temperature=0)
    assert done.message.reasoning is None
    assert done.message.content
    assert done.usage.reasoning_tokens == len(llm.tokenizer.encode("\n</think>", special=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [Tool(f"f{i}") for i in range(10_000)]}, "tools are 10000, but may be 512"),
        ({"tools": [Tool("f", parameters={"properties": {"a": {"type": "x"}}}), FORECAST]}, "tools: 'f' cannot"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "response_format"),
        ({"json_schema": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}}, "json_schema"),
        ({"json_schema": {"not": {}}, "tools": [FORECAST]}, "json_schema"),
        ({"regex": "(?=a)"}, "regex"),
        ({"grammar": "root ::= x"}, "grammar"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(llm, options, message):
    with pytest.raises(RequestError, match=message):
        llm.chat(HELLO, **options)


# --- an assistant's turn goes on ---


@pytest.fixture(scope="module")
def thinker() -> Iterator[LLM]:
    with LLM(n_ctx=512, chat_template=builtin("step35")) as llm:
        yield llm


@pytest.mark.parametrize(
    ("last", "end"),
    [
        ({"content": "The answer is"}, "<think>\n\n</think>\nThe answer is"),
        ({"content": None, "reasoning_content": "Well, "}, "<think>\nWell, "),
    ],
)
def test_a_last_turn_of_the_assistants_is_continued(thinker: LLM, last: dict[str, Any], end: str) -> None:
    messages = [*HELLO, {"role": "assistant", **last}]
    prompt = thinker.apply_template(messages)
    assert prompt.endswith("<|im_start|>assistant\n" + end)
    assert thinker.count_tokens(messages) == len(thinker.tokenize(prompt))
    done = thinker.chat(messages, temperature=0, max_tokens=30)
    plain = thinker.generate(prompt, temperature=0, max_tokens=30)
    assert done.usage.prompt_tokens == plain.usage.prompt_tokens
    said, tag = (done.message.reasoning or "") + done.text, "\n</think>\n"
    assert said.replace(tag, "") == plain.text.replace(tag, "")
    assert bool(done.message.reasoning) == ("content" not in last or last["content"] is None)


def test_a_turn_that_is_over_stays_so_where_that_is_asked_for(thinker: LLM) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Hello."}]
    asked = {"add_generation_prompt": True}
    assert thinker.apply_template(messages, **asked).endswith("Hello.<|im_end|>\n<|im_start|>assistant\n<think>\n")
    stream = thinker.chat_stream(messages, (), SamplingParams(max_tokens=1), asked)
    assert stream.prompt_tokens == len(thinker.tokenize(thinker.apply_template(messages, **asked)))
    stream.result()


def test_a_format_is_of_whole_answers(thinker: LLM) -> None:
    with pytest.raises(RequestError, match="regex is of a whole answer") as caught:
        thinker.chat([*HELLO, {"role": "assistant", "content": "{"}], regex="[a-z]+")
    assert caught.value.field == "regex"
    thought = [*HELLO, {"role": "assistant", "content": "", "reasoning": "So"}]
    done = thinker.chat(thought, regex="[a-z]{3}", reasoning_budget=5, max_tokens=60)
    assert re.fullmatch("[a-z]{3}", done.text)


def test_words_that_were_begun_are_followed_by_no_thought(thinker: LLM) -> None:
    words = [*HELLO, {"role": "assistant", "content": "So"}]
    done = thinker.chat(words, reasoning_budget=0, temperature=0, max_tokens=10)
    assert done.message == thinker.chat(words, temperature=0, max_tokens=10).message


# --- what is kept of earlier prompts ---


def conversation(*answers: Any) -> list[dict[str, Any]]:
    """A long question, answers as they came, and a question after each."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Tell me about everything. " * 60}]
    for answer in answers:
        back = {"role": "assistant", "content": answer.message.content or "", "reasoning": answer.message.reasoning}
        messages += [back, {"role": "user", "content": "And then?"}]
    return messages


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_a_follow_up_turn_computes_its_own_tokens_and_says_the_same(kv_type: Any) -> None:
    with LLM(n_ctx=2048, kv_type=kv_type) as kept, LLM(n_ctx=2048, kv_type=kv_type, cache_ram=0) as forgotten:
        answers: list[Any] = []
        for turn in range(3):
            messages = conversation(*answers)
            answers.append(kept.chat(messages, max_tokens=40, temperature=0))
            plain = forgotten.chat(messages, max_tokens=40, temperature=0)
            assert answers[-1].message == plain.message
            assert plain.timings.cache_n == plain.usage.cached_tokens == 0
            timings, usage = answers[-1].timings, answers[-1].usage
            assert timings.cache_n + timings.prompt_n == plain.timings.prompt_n == usage.prompt_tokens
            assert timings.cache_n == usage.cached_tokens
            assert timings.prompt_n < 80 if turn else timings.cache_n == 0


def test_a_scope_and_a_request_that_says_no_share_nothing(tmp_path: Path) -> None:
    prompt = list(range(10, 200))
    with LLM(n_ctx=512, cache_dir=tmp_path) as llm:
        assert llm.generate(prompt, max_tokens=1, cache_prompt=False).usage.cached_tokens == 0
        assert llm.scoped("a").generate(prompt, max_tokens=1).usage.cached_tokens == 0
        assert llm.scoped("b").generate(prompt, max_tokens=1).usage.cached_tokens == 0
        assert llm.scoped("a").generate(prompt, max_tokens=1).usage.cached_tokens == 189
    with LLM(n_ctx=512, cache_dir=tmp_path) as llm:
        assert llm.generate(prompt, max_tokens=1).usage.cached_tokens == 0
        assert llm.scoped("b").generate(prompt, max_tokens=1).usage.cached_tokens == 189
    with LLM(n_ctx=512, cache_dir=tmp_path, kv_type="f32") as llm:
        assert llm.scoped("b").generate(prompt, max_tokens=1).usage.cached_tokens == 0


@pytest.mark.parametrize(("cache_ram", "cache_prompt"), [(0, True), (16, False)])
def test_a_group_computes_its_prompt_once_where_nothing_is_kept(cache_ram: int, cache_prompt: bool) -> None:
    prompt = list(range(10, 200))
    options = {"max_tokens": 20, "temperature": 0, "cache_prompt": cache_prompt}
    with LLM(n_ctx=512, n_parallel=2, cache_ram=cache_ram) as llm:
        alone = llm.generate(prompt, **options)
        together = llm.grouped()
        answers = [stream.result() for stream in [together.generate(prompt, stream=True, **options) for _ in range(3)]]
        assert [answer.text for answer in answers] == [alone.text] * 3
        assert [answer.usage.cached_tokens for answer in answers] == [0, 189, 189]
        assert llm.generate(prompt, **options).usage.cached_tokens == 0


@pytest.mark.parametrize("cache_ram", [-2, 1.5, "8"])
def test_a_wrong_size_of_the_cache_is_refused_by_name(cache_ram: Any) -> None:
    with pytest.raises(RequestError, match="cache_ram is"):
        LLM(cache_ram=cache_ram)


@pytest.mark.parametrize(
    "ask",
    [
        lambda llm, long: llm.generate(long),
        lambda llm, long: llm.chat([Message("user", long)]),
        lambda llm, long: llm.chat([Message("user", "a")] * 513),
        lambda llm, long: llm.chat([Message("assistant", "a"), Message("tool", long)] * 2),
        lambda llm, long: llm.count_tokens([Message("user", long)]),
        lambda llm, long: llm.apply_template([Message("user", long)]),
        lambda llm, long: llm.chat([Message("user", "a")], [Tool("f", long)]),
        lambda llm, long: llm.embed(long),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_read(llm, monkeypatch, ask):
    long = "a" * (llm.n_ctx * llm.tokenizer.longest + 1)
    monkeypatch.setattr(llm.tokenizer, "_encode", None)
    with pytest.raises(ContextOverflowError, match=r"at least \d+ tokens"):
        ask(llm, long)


def test_thoughts_and_what_is_truncated_may_be_long(llm):
    long = "a" * (llm.n_ctx * llm.tokenizer.longest + 1)
    turns = [Message("user", "a"), Message("assistant", f"<think>{long}</think>b"), Message("user", "c")]
    assert llm.count_tokens(turns) < llm.n_ctx
    assert llm.embeddings(long, truncate=True).result().usage.prompt_tokens == llm.n_ctx


def test_closing_a_view_leaves_the_model_open(llm):
    with llm.scoped("a") as view, view.grouped():
        pass
    assert llm.generate("Hello", max_tokens=1, temperature=0).usage.completion_tokens == 1


def test_logits_of_all_that_the_context_holds_and_no_more(llm):
    assert llm.logits([5] * 512).shape == (512, llm.config.n_vocab)
    with pytest.raises(ContextOverflowError):
        llm.logits([5] * 513)


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda llm: llm.generate("a\ud800"), "prompt"),
        (lambda llm: llm.chat([{"role": "user", "content": "a\ud800"}]), "messages"),
        (lambda llm: llm.embed(["a\ud800"]), "texts"),
        (lambda llm: llm.tokenize("a\ud800"), "text"),
    ],
)
def test_half_a_surrogate_pair_is_refused_by_name(llm, ask, field):
    with pytest.raises(RequestError, match="surrogate") as caught:
        ask(llm)
    assert caught.value.field == field
