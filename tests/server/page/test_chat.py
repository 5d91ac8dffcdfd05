"""A conversation: what a person does, and what they see and the model is asked."""

from __future__ import annotations

import pytest

from stride.errors import GenerationError, OverloadedError, RequestError
from stride.types import ContentDelta, Finish, ReasoningDelta, Timings, ToolCallDelta, ToolCallStart, Usage

USAGE = Usage(7, 3, 2, 1)
TIMINGS = Timings(prompt_n=7, prompt_ms=70.0, predicted_n=3, predicted_ms=40.0)
FINISH = Finish("stop", USAGE, TIMINGS)
HELLO = (ContentDelta("Hel"), ContentDelta("lo"), FINISH)
CALLS = (
    ToolCallStart(0, "a", "get_weather"),
    ToolCallDelta(0, '{"city":"Aus'),
    ToolCallDelta(0, 'tin","days":12345678901234567890}'),
    ToolCallStart(1, "b", "calculate"),
    ToolCallDelta(1, "{}"),
    Finish("tool_calls", USAGE, TIMINGS),
)
LONG = 30.0
"""Seconds of a pause that no test waits for."""


def sent(page):
    """Roles and contents of the messages that the model was last asked with."""
    return [(message["role"], message["content"]) for message in page.model.asked[-1][0]]


def test_answer_streams_and_tells_what_it_cost(page):
    page = page(ContentDelta("Hel"), LONG).open()
    page.say("Hi")
    page.wait_text(".answer.running", "Hel")
    page.wait_text(".answer.running .stats", "75 tok/s")
    assert page.find("#stop").is_displayed()
    page.click("#stop")
    page.answered()
    answer = page.ask("Again", *HELLO)
    assert "Hello" in answer.text
    for figure in ("75 tok/s", "3 tokens", "first token", "prompt 100 tok/s"):
        assert figure in answer.text
    assert page.find("#send").is_displayed()
    assert "Context 10 of 128" in page.find("#figures").text
    assert page.find("#announcer").get_attribute("textContent") == "Answer: Hello"
    assert sent(page) == [("user", "Hi"), ("assistant", "Hel"), ("user", "Again")]


def test_reasoning_is_open_while_it_lasts_and_folds_for_the_answer(page):
    page = page(ReasoningDelta("Let me *see*"), LONG).open()
    page.say("Hi")
    page.wait_text(".thought summary", "Thinking…")
    page.wait_text(".thought em", "see")
    page.click("#stop")
    page.answered()
    answer = page.ask("Again", ReasoningDelta("hm "), ReasoningDelta("hm"), *HELLO)
    thought = page.all(".thought")[-1]
    assert thought.get_attribute("open") is None
    assert "Thought for" in answer.text
    assert "hm hm" not in answer.text
    page.all(".thought summary")[-1].click()
    page.wait(lambda: "hm hm" in answer.text)


def test_reasoning_that_a_person_folds_stays_folded(page):
    page = page(ReasoningDelta("one"), 0.4, ReasoningDelta("two"), LONG).open()
    page.say("Hi")
    page.wait_text(".thought", "one")
    page.click(".thought summary")
    page.wait(lambda: page.find(".thought").get_attribute("open") is None)
    page.wait_text(".thought summary", "Thinking… 1.")
    assert page.find(".thought").get_attribute("open") is None
    page.click("#stop")


def test_tool_calls_are_shown_and_given_their_results(page):
    page = page().open()
    answer = page.ask("Weather?", *CALLS)
    assert [name.text for name in page.all(".tool-name")] == ["get_weather", "calculate"]
    assert page.find(".tool dl").text.split("\n") == ["city", "Austin", "days", "12345678901234567890"]
    assert "No arguments" in answer.text
    page.model.steps = HELLO
    first, second = page.all(".tool textarea")
    first.send_keys('{"sky":"clear","t":1.50}')
    page.click(".tools button")  # the second is still missing
    assert len(page.model.asked) == 1
    second.send_keys("42")
    page.click(".tools button")
    page.wait_text(".answer:last-child", "Hello")
    assert sent(page)[-3:] == [("assistant", ""), ("tool", '{"sky":"clear","t":1.50}'), ("tool", "42")]
    calls = page.model.asked[-1][0][1]["tool_calls"]
    assert calls[0]["function"]["arguments"] == '{"city":"Austin","days":12345678901234567890}'
    assert [message.get("tool_call_id") for message in page.model.asked[-1][0]][-2:] == ["a", "b"]
    assert '"t": 1.50' in page.find(".tool .result").text
    assert page.all(".tool textarea") == []


def test_escape_stops_on_both_sides(page):
    page = page(ContentDelta("Hel"), LONG).open()
    page.say("Hi")
    page.wait_text(".answer", "Hel")
    page.press(page.keys.ESCAPE)
    assert "Stopped." in page.answered().text
    page.wait(lambda: page.model.streams[-1].cancelled.is_set())
    assert page.focused() == "prompt"


def test_an_answer_is_made_again_and_the_old_one_can_be_had_back(page):
    page = page().open()
    page.ask("Hi", ContentDelta("alpha"), FINISH)
    page.model.steps = (ContentDelta("beta"), FINISH)
    page.click(".answer [aria-label='Answer again']")
    page.wait_text("#messages", "beta")
    assert sent(page) == [("user", "Hi")]
    assert "alpha" not in page.find("#messages").text
    page.answered()
    page.click("#toast button")
    page.wait_text("#messages", "alpha")
    assert "beta" not in page.find("#messages").text


def test_a_message_is_edited_and_sent_again(page):
    page = page().open()
    page.ask("Hi", *HELLO)
    page.ask("More", *HELLO)
    page.click(".user [aria-label='Edit and send again']")
    field = page.driver.switch_to.active_element
    assert field.get_attribute("value") == "Hi"
    assert page.run("return arguments[0].getBoundingClientRect().top", field) > 0
    field.send_keys(" there" + page.keys.ENTER)
    page.wait(lambda: len(page.all(".message")) == 2)
    page.answered()
    assert sent(page) == [("user", "Hi there")]
    assert page.find("#title").text == "Hi there"
    page.click("#toast button")
    page.wait(lambda: len(page.all(".message")) == 4)


def test_editing_can_be_given_up(page):
    page = page().open()
    page.ask("Hi", *HELLO)
    page.click(".user [aria-label='Edit and send again']")
    page.press("!!", page.keys.ESCAPE)
    assert page.find(".user .bubble").text == "Hi"
    assert page.focused() == "Edit and send again"
    assert len(page.model.asked) == 1


def test_settings_reach_the_model(page):
    page = page().open()
    page.click("#open-settings")
    for name, value in (("system", "Be brief."), ("temperature", "0.5"), ("top_p", "0.9"), ("top_k", "7")):
        page.find(f"#settings [name={name}]").send_keys(value)
    page.find("#settings [name=max_tokens]").send_keys("9")
    page.find("#settings [name=reasoning_effort]").send_keys("low")
    page.click("#tools-example")
    page.click("#settings .primary")
    page.ask("Hi", *HELLO)
    assert sent(page)[0] == ("system", "Be brief.")
    params = page.model.params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 0.9, 7, 9)
    _, tools, _, _, constraints = page.model.asked[-1]
    assert tools[0]["function"]["name"] == "get_weather"
    assert constraints.reasoning_effort == "low"
    page.open()
    page.ask("Hi")
    assert sent(page)[0] == ("system", "Be brief.")


def test_defaults_are_the_servers(page):
    page = page(sampling={"temperature": 0.7}).open()
    page.click("#open-settings")
    assert page.find("#settings [name=temperature]").get_attribute("placeholder") == "0.7"
    assert page.find("#settings [name=max_tokens]").get_attribute("placeholder") == "no limit"
    page.press(page.keys.ESCAPE)
    page.wait(lambda: not page.all("dialog[open]"))
    page.ask("Hi", *HELLO)
    assert page.model.params.temperature == 0.7


@pytest.mark.parametrize(("text", "problem"), [("[", "no JSON"), ("{}", "a list"), ('[{"type":"x"}]', "Tool 1 must")])
def test_tools_that_are_none_are_told_and_not_kept(page, text, problem):
    page = page().open()
    page.click("#open-settings")
    page.find("#settings [name=tools]").send_keys(text)
    assert problem in page.find("#tools-problem").text
    page.click("#settings .primary")
    assert page.find("#settings").get_attribute("open") is not None
    assert page.focused() == "Tools, as JSON" or page.run("return document.activeElement.name") == "tools"


# --- what goes wrong ---


def test_an_error_is_shown_in_its_place_and_can_be_retried(page):
    page = page().open()
    answer = page.ask("Hi", ContentDelta("Hel"), GenerationError("the device is gone"))
    assert "Hel" in answer.text
    assert "the device is gone" in answer.find_element("css selector", "[role=alert]").text
    page.model.steps = HELLO
    page.click(".answer .error button")
    page.wait_text(".answer", "Hello")
    assert not page.find(".answer .error").is_displayed()


def test_a_refusal_is_shown_in_the_servers_words(page, monkeypatch):
    page = page().open()

    def refuse(*_):
        raise RequestError("top_p is 7, but must be at most 1", field="top_p")

    monkeypatch.setattr(page.model, "chat_stream", refuse)
    assert "top_p is 7, but must be at most 1" in page.ask("Hi").text


def test_a_busy_server_is_asked_again(page, monkeypatch):
    page = page(*HELLO).open()
    start, tries = page.model.chat_stream, []

    def busy_once(*asked):
        tries.append(asked)
        if len(tries) == 1:
            raise OverloadedError("all places are taken")
        return start(*asked)

    monkeypatch.setattr(page.model, "chat_stream", busy_once)
    page.say("Hi")
    page.wait_text(".answer .waiting", "all places are taken. Trying again")
    page.wait_text(".answer", "Hello")
    assert len(tries) == 2


def test_a_server_that_loads_is_waited_for(page):
    page = page(*HELLO)
    page.site.is_loaded = False
    page.open(waits=False)
    page.wait_text("#notice", "The model is loading")
    page.say("Hi")
    page.wait_text(".answer .waiting", "Loading model. Trying again")
    page.site.is_loaded = True
    page.wait_text(".answer", "Hello")
    page.wait(lambda: page.find("#notice").text == "")
    page.wait_text("#model-name", "scripted")


def test_a_server_that_goes_away_and_comes_back(page):
    page = page(ContentDelta("Hel"), LONG).open()
    page.say("Hi")
    page.wait_text(".answer", "Hel")
    page.site.stop()
    assert "The connection was lost." in page.answered().text
    page.wait_text("#notice", "The server cannot be reached")
    page.click(".answer .error button")
    page.wait_text(".answer .error", "The server cannot be reached.")
    page.model.steps = HELLO
    page.site.start()
    page.wait(lambda: page.find("#notice").text == "")
    page.click(".answer .error button")
    page.wait_text(".answer", "Hello")


def test_a_key_is_asked_for(page):
    page = page(*HELLO, api_keys=("schlüssel",)).open(waits=False)
    field = page.wait(lambda: next(iter(page.all("#key[open] input")), None))
    field.send_keys("wrong" + page.keys.ENTER)
    page.wait_text("#key-problem", "is wrong")
    field = page.find("#key input")
    field.clear()
    field.send_keys("schlüssel" + page.keys.ENTER)
    page.wait_text("#model-name", "scripted")
    assert "Hello" in page.ask("Hi").text
    page.open()
    assert page.all("dialog[open]") == []


def test_memory_is_shown_where_the_server_tells_it(page, served):
    page = page()
    page.driver.get(served.url)
    page.wait_text("#memory", "MB")


def test_the_demo_model_answers(browser, page, served):
    page = page()
    page.driver.get(served.url)
    page.wait(lambda: page.find("#model-name").text)
    page.click("#open-settings")
    page.find("#settings [name=max_tokens]").send_keys("12")
    page.click("#settings .primary")
    page.say("Hello!")
    page.wait(lambda: page.all(".answer"))
    answer = page.answered()
    assert "12 tokens" in answer.text
    assert "limit of tokens" in answer.text
    assert "Context " in page.find("#figures").text
