"""Widths, colours, keyboard, names: the page for everybody."""

from __future__ import annotations

import pytest

from stride.types import ContentDelta, Finish, ReasoningDelta, Timings, ToolCallDelta, ToolCallStart, Usage

TIMINGS = Timings(prompt_n=7, prompt_ms=70.0, predicted_n=3, predicted_ms=40.0)
TEXT = (
    "Some *text* and `code`, [a link](https://example.com).\n\n"
    f"{'unbreakable' * 20}\n\n```python\n{'long = line; ' * 20}\n```\n\n"
    f"|{' column |' * 12}\n|{'--|' * 12}\n|{' value |' * 12}\n\n> quoted"
)
ANSWER = (
    ReasoningDelta("Let me see."),
    ContentDelta(TEXT),
    ToolCallStart(0, "a", "get_weather"),
    ToolCallDelta(0, '{"place":"' + "Austin" * 30 + '"}'),
    Finish("tool_calls", Usage(7, 3, 2, 1), TIMINGS),
)
OVERFLOWING = """
return [...document.querySelectorAll("#page *")]
  .filter((e) => e.checkVisibility() && !e.closest(".visually-hidden, .code pre > *, .table > *, .raw > *"))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)
  .map((e) => e.outerHTML.slice(0, 80));
"""
# WCAG's contrast of each visible text with the nearest background that is painted.
CONTRASTS = """
const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
};
const luminance = (rgb) => {
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (e) => {
  const colour = rgba(getComputedStyle(e).backgroundColor);
  return colour[3] === 255 ? colour : behind(e.parentElement);
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !e.checkVisibility()) continue;
  if (e.closest("svg, .visually-hidden, noscript, option")) continue;
  const [a, b] = [luminance(rgba(getComputedStyle(e).color)), luminance(behind(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found.push([e.outerHTML.slice(0, 80), ratio]);
}
return [found, getComputedStyle(document.body).backgroundColor];
"""


@pytest.mark.parametrize(("width", "height"), [(320, 560), (375, 667), (768, 1024), (1280, 800)])
def test_everything_fits_every_width(page, width, height):
    page = page()
    page.resize(width, height, touch=width < 700)
    page.open()
    page.model.steps = ANSWER
    page.type("word " * 60 + "unbreakable" * 12)
    page.click("#send")
    page.wait(lambda: page.all(".answer"))
    page.answered()
    assert page.run(OVERFLOWING) == []
    assert page.run("return document.scrollingElement.scrollWidth") <= width
    assert page.find("#prompt").is_displayed()
    assert page.find("#figures").is_displayed()
    page.click("#open-settings")
    box = page.find("#settings").rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= height
    assert page.run("const d = document.getElementById('settings'); return d.scrollWidth - d.clientWidth") == 0


def test_the_list_is_a_drawer_on_a_phone(page):
    page = page(*ANSWER)
    page.resize(375, 667, touch=True)
    page.open()
    assert not page.find("#new").is_displayed()
    page.click("#menu")
    page.wait(lambda: page.find("#new").is_displayed())
    assert page.focused() == "new"
    assert page.run("return document.getElementById('page').inert")
    page.press(page.keys.ESCAPE)
    page.wait(lambda: not page.find("#new").is_displayed())
    assert page.focused() == "menu"
    small = page.run(
        "return [...document.querySelectorAll('#page button')].filter((b) => b.checkVisibility())"
        ".map((b) => b.getBoundingClientRect()).filter((r) => Math.min(r.width, r.height) < 32).length"
    )
    assert small == 0


def test_dark_and_light_can_be_read(page):
    page = page(*ANSWER).open()
    page.ask("Hi")
    page.click(".thought summary")
    backgrounds = {}
    for scheme in ("light", "dark"):
        page.prefer(prefers_color_scheme=scheme)
        unreadable, backgrounds[scheme] = page.run(CONTRASTS)
        assert unreadable == []
    assert backgrounds["light"] != backgrounds["dark"]
    page.click("#open-settings")
    assert page.run(CONTRASTS)[0] == []


def test_the_switch_overrides_the_system(page):
    page = page().open()
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(background)
    page.click("#open-settings")
    page.click("#settings [value=dark]")
    page.click("#settings .primary")
    dark = page.run(background)
    assert dark != light
    page.open()
    assert page.run(background) == dark
    page.prefer(prefers_color_scheme="dark")
    page.click("#open-settings")
    page.click("#settings [value=light]")
    page.click("#settings .primary")
    assert page.run(background) == light


def test_nothing_moves_where_nothing_is_to_move(page):
    page = page(ReasoningDelta("hm"), 30.0)
    page.prefer(prefers_reduced_motion="reduce")
    page.open()
    page.say("Hi")
    page.wait_text(".thought summary", "Thinking")
    assert page.run("return document.getAnimations().length") == 0
    page.prefer(prefers_reduced_motion="no-preference")
    page.wait(lambda: page.run("return document.getAnimations().length") > 0)
    page.click("#stop")


def test_keyboard_alone(page):
    page = page(*ANSWER).open()
    keys = page.keys
    assert page.focused() == "prompt"
    page.press("one", keys.SHIFT + keys.ENTER, keys.NULL, "two", keys.ENTER)
    page.wait(lambda: page.all(".answer"))
    page.answered()
    assert page.model.asked[-1][0] == [{"role": "user", "content": "one\ntwo"}]
    page.run("document.activeElement.blur(); document.getSelection().removeAllRanges()")
    page.open()
    page.press(keys.SHIFT + keys.TAB)
    reached = []
    page.run("document.querySelector('.conversation').focus()")
    page.press(keys.ENTER)
    page.wait(lambda: page.focused() == "prompt")
    for _ in range(12):
        page.press(keys.SHIFT + keys.TAB)
        reached.append(page.focused())
    assert "Send result" in reached
    assert "Copy code" in reached
    assert "Answer again" in reached
    assert "Edit and send again" in reached
    outline = "const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.outlineWidth"
    assert page.run(outline) == "solid2px"


def test_the_first_stop_skips_the_list(page):
    page = page().open()
    page.run("document.body.firstElementChild.focus()")
    assert page.focused() == "Skip to the message field"
    assert page.find(".skip").rect["y"] >= 0
    page.press(page.keys.ENTER)
    assert page.focused() == "prompt"


def test_everything_has_a_name_and_a_place(page):
    page = page(*ANSWER).open()
    page.ask("Hi")
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    interactive = {"button", "link", "textbox", "combobox", "spinbutton", "radio"}
    assert [node for node in nodes if node[0] in interactive and not node[1]] == []
    roles = [role for role, _ in nodes]
    for landmark in ("banner", "navigation", "main", "form"):
        assert landmark in roles, landmark
    headings = [name for role, name in nodes if role == "heading"]
    assert headings[:3] == ["Hi", "You", "Model"]
    assert ("form", "Tool calls") in nodes


def test_state_is_told_to_screen_readers(page):
    page = page(ContentDelta("Hel"), 30.0).open()
    page.say("Hi")
    page.wait_text(".answer", "Hel")
    assert page.find("#announcer").get_attribute("textContent") == "Waiting for the answer"
    assert page.find(".answer").get_attribute("aria-busy") == "true"
    page.click("#stop")
    page.answered()
    assert page.find("#announcer").get_attribute("textContent") == "Stopped"
    assert page.find(".answer").get_attribute("aria-busy") == "false"
    assert page.find("#announcer").get_attribute("role") == "status"
