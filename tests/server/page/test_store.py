"""Conversations: kept in the browser, many of them, taken along as files."""

from __future__ import annotations

import json

from stride.types import ContentDelta, Finish, Timings, Usage

FINISH = Finish("stop", Usage(7, 3, 2, 1), Timings(prompt_n=7, prompt_ms=70.0, predicted_n=3, predicted_ms=40.0))
HELLO = (ContentDelta("Hel"), ContentDelta("lo"), FINISH)
LONG = 30.0


def titles(page):
    return [button.text for button in page.all(".conversation")]


def kept(page):
    """What the browser's storage has, by key."""
    return page.run("return {...localStorage}")


def put(page, *conversations):
    for conversation in conversations:
        page.run(
            "localStorage.setItem(arguments[0], arguments[1])",
            f"stride.conversation.{conversation['id']}",
            json.dumps(conversation),
        )


def conversation(number: int, n_messages: int = 2):
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": f"message {i}\n\nof **{n_messages}**"}
        for i in range(n_messages)
    ]
    return {"id": f"{number:x}", "title": f"Talk {number}", "updated": number, "messages": messages}


def test_conversations_outlive_the_page(page):
    page = page(*HELLO).open()
    page.ask("First talk")
    page.click("#new")
    assert page.all(".message") == []
    page.ask("Second talk")
    assert titles(page) == ["Second talk", "First talk"]
    page.open()
    assert titles(page) == ["Second talk", "First talk"]
    page.all(".conversation")[1].click()
    assert page.find(".bubble").text == "First talk"
    assert "Hello" in page.find(".answer").text
    assert page.find("#title").text == "First talk"
    assert "First talk" in page.driver.title


def test_an_answer_goes_on_while_another_conversation_is_shown(page):
    page = page(ContentDelta("slow"), 0.5, ContentDelta(" end"), FINISH).open()
    page.say("First talk")
    page.wait_text(".answer", "slow")
    page.click("#new")
    assert page.all(".dot")
    page.ask("Second talk", *HELLO)
    page.wait(lambda: not page.all(".dot"))
    page.all(".conversation")[0].click()
    assert {page.find(".bubble").text} == {titles(page)[0]}
    next(button for button in page.all(".conversation") if button.text == "First talk").click()
    assert "slow end" in page.find(".answer").text


def test_what_has_come_of_an_answer_is_kept_when_the_page_is_left(page):
    page = page(ContentDelta("Hel"), LONG).open()
    page.say("Hi")
    page.wait_text(".answer", "Hel")
    page.open()
    page.click(".conversation")
    answer = page.find(".answer").text
    assert "Hel" in answer
    assert "before the answer ended" in answer or "The connection was lost" in answer


def test_deleting_can_be_undone(page):
    page = page(*HELLO).open()
    page.ask("Hi")
    page.click("[aria-label='Delete Hi']")
    assert titles(page) == []
    assert page.all(".message") == []
    assert not any("conversation" in key for key in kept(page))
    page.click("#toast button")
    assert titles(page) == ["Hi"]
    assert any("conversation" in key for key in kept(page))
    assert page.find(".bubble").text == "Hi"


def test_exported_conversations_can_be_imported(page, browser, tmp_path):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page = page(*HELLO).open()
    page.run("localStorage.setItem('stride.settings', JSON.stringify({apiKey: 'secret'}))")
    page.open()
    page.ask("Hi")
    page.click("#export-all")
    file = tmp_path / "stride-conversations.json"
    page.wait(file.exists)
    page.click("#export-one")
    document = tmp_path / "Hi.md"
    page.wait(document.exists)
    assert document.read_text() == "# Hi\n\n## You\n\nHi\n\n## Model\n\nHello\n"
    assert "secret" not in file.read_text()
    page.click("[aria-label='Delete Hi']")
    page.find("#import-file").send_keys(str(file))
    page.wait(lambda: titles(page) == ["Hi"])
    page.click(".conversation")
    assert "Hello" in page.find(".answer").text


def test_files_that_are_no_export_are_refused(page, tmp_path):
    page = page().open()
    bad, worse, wrong = conversation(1), conversation(2), conversation(3)
    bad["messages"][0]["role"] = "system"
    worse["messages"][1]["stats"] = {"timings": {"predicted_n": None}}
    wrong["id"] = "../x"
    envelope = {"format": "stride-conversations", "version": 1}
    exports = [{**envelope, "version": 2, "conversations": []}]
    exports += [{**envelope, "conversations": [value]} for value in (bad, worse, wrong, None)]
    for text in ("", "{}", "[]", *map(json.dumps, exports)):
        file = tmp_path / "file.json"
        file.write_text(text)
        page.run("document.getElementById('import-problem').textContent = ''")
        page.find("#import-file").send_keys(str(file))
        page.wait_text("#import-problem", "cannot be imported")
    assert titles(page) == []


def test_storage_that_cannot_be_read_is_left_alone(page):
    page = page(*HELLO).open()
    broken = {"stride.conversation.1": "{", "stride.conversation.2": '{"id": 5}', "stride.settings": "["}
    page.run("Object.entries(arguments[0]).forEach(([key, text]) => localStorage.setItem(key, text))", broken)
    put(page, conversation(3))
    page.open()
    assert titles(page) == ["Talk 3"]
    assert kept(page).items() >= {k: v for k, v in broken.items() if "conversation" in k}.items()
    assert "Hello" in page.ask("Hi").text


def test_a_full_browser_says_so_and_goes_on(page):
    page = page(*HELLO).open()
    page.run("localStorage.setItem('filler', 'x'.repeat(5 * 2 ** 20 - localStorage.length - 1000))")
    assert "Hello" in page.ask("Hi " * 1000).text
    assert "no room left" in page.find("#storage-problem").text
    page.run("localStorage.removeItem('filler')")
    page.ask("Again")
    assert not page.find("#storage-problem").is_displayed()


def test_long_conversations_show_their_end_first(page):
    page = page(*HELLO).open()
    put(page, conversation(1, 400))
    page.open()
    page.click(".conversation")
    assert len(page.all(".message")) == 60
    assert "message 399" in page.find("#messages").text
    assert (
        page.run("const s = document.getElementById('scroll'); return s.scrollHeight - s.scrollTop - s.clientHeight")
        < 2
    )
    assert page.find("#earlier").text == "Show 340 earlier messages"
    page.run("document.getElementById('earlier').click()")
    assert len(page.all(".message")) == 120
    page.ask("Hi")
    assert len(page.model.asked[-1][0]) == 401


def test_scrolling_up_is_not_undone_by_what_comes(page):
    page = page(ContentDelta("line\n\n" * 60), 0.3, *(ContentDelta("more\n\n") for _ in range(30)), LONG).open()
    page.say("Hi")
    page.wait_text(".answer", "line")
    page.wait(lambda: page.run("return document.getElementById('scroll').scrollTop") > 100)
    page.run("document.getElementById('scroll').scrollTop = 50")
    page.wait_text(".answer", "more")
    assert page.run("return document.getElementById('scroll').scrollTop") == 50
    page.wait(lambda: page.find("#newest").is_displayed())
    page.click("#newest")
    page.wait(lambda: page.run("return document.getElementById('scroll').scrollTop") > 100)
    page.click("#stop")
    page.answered()


def test_other_tabs_are_heard(page, browser):
    page = page(*HELLO).open()
    page.ask("Hi")
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    try:
        page.open()
        page.ask("From the other tab")
    finally:
        browser.close()
        browser.switch_to.window(first)
    page.wait(lambda: set(titles(page)) == {"Hi", "From the other tab"})
    assert page.find(".bubble").text == "Hi"
