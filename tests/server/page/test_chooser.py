"""Several models: which one answers is a person's to choose, and stays so."""

from __future__ import annotations

import pytest

from stride.types import ContentDelta, Finish, Timings, Usage

FINISH = Finish("stop", Usage(7, 3, 2, 1), Timings(prompt_n=7, prompt_ms=70.0, predicted_n=3, predicted_ms=40.0))
LONG = "a-model-with-a-name-that-is-too-long-for-any-telephone-Q4_K_M"
MODELS = {name: (ContentDelta(f"I am {name}."), FINISH) for name in ("small", LONG)}


def chosen(page) -> str:
    return page.find("#model").get_property("value")


def test_the_one_that_is_chosen_answers_and_stays_chosen(page):
    page = page(models=MODELS).open(model="small")
    assert not page.find("#model-name").is_displayed()
    assert page.run("return [...document.getElementById('model').options].map((o) => o.text)") == list(MODELS)
    assert page.ask("Hi").text.count("I am small.") == 1
    page.run("document.getElementById('model').focus()")
    page.press(page.keys.ARROW_DOWN)
    assert chosen(page) == LONG
    assert page.find("#prompt").get_attribute("placeholder") == f"Message {LONG}"
    assert f"I am {LONG}." in page.ask("And you?").text
    history = page.model[LONG].asked[-1][0]
    assert [message["content"] for message in history] == ["Hi", "I am small.", "And you?"]
    assert len(page.model["small"].asked) == 1
    page.open(model=LONG)
    assert chosen(page) == LONG


def test_each_answer_says_whose_it_is(page):
    page = page(models=MODELS).open(model="small")
    page.ask("Hi")
    page.find("#model").send_keys(page.keys.ARROW_DOWN)
    page.ask("And you?")
    assert [name.text for name in page.all(".answer .stats span:first-child")] == list(MODELS)


def test_a_model_that_is_gone_is_not_asked_for(page):
    page = page(models=MODELS).open(model="small")
    page.run("localStorage.setItem('stride.settings', JSON.stringify({ model: 'gone' }))")
    page.open(model="small")
    assert chosen(page) == "small"
    assert "I am small." in page.ask("Hi").text


def test_defaults_are_told_once_a_model_is_loaded(page):
    page = page(models=MODELS).open(model="small")
    page.ask("Hi")
    page.open(model="small")
    page.click("#open-settings")
    assert page.find("#settings [name=temperature]").get_attribute("placeholder") == "0.8"


@pytest.mark.parametrize(("width", "height"), [(320, 560), (1280, 800)])
def test_long_names_leave_room(page, width, height):
    page = page(models=MODELS)
    page.resize(width, height, touch=width < 700)
    page.open(model="small")
    page.find("#model").send_keys(page.keys.ARROW_DOWN)
    page.ask("Hi")
    assert page.run("return document.scrollingElement.scrollWidth") <= width
    assert page.find("#model").rect["height"] >= 24
    prompt = "const p = document.getElementById('prompt'); return p.scrollHeight - p.clientHeight"
    assert page.run(prompt) == 0, "a long placeholder takes one line"
    right = page.run("return document.getElementById('model').getBoundingClientRect().right")
    assert right <= width
    assert page.find("#open-settings").rect["x"] + page.find("#open-settings").rect["width"] <= width
