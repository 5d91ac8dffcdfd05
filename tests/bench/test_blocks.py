"""Text from outside stays text, whatever it holds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from stride.bench.blocks import Section, code, fence, plain

MARKDOWN = MarkdownIt("commonmark", {"html": False})
TEXT = st.text(alphabet="ab `*_[]<>|&;\\~#!()\n\t", max_size=40)


def shown(markdown: str) -> str:
    (inline,) = MARKDOWN.parseInline(markdown)
    assert {child.type for child in inline.children or ()} <= {"text", "text_special", "code_inline"}
    return "".join(child.content for child in inline.children or ())


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_plain_shows_exactly_its_text(text):
    assert shown(plain(text)) == " ".join(text.split())


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_code_shows_exactly_its_text(text):
    words = " ".join(text.split())
    if words:
        assert shown(code(text)) == words


@settings(max_examples=100, deadline=None)
@given(TEXT)
def test_a_fence_holds_its_text(text):
    marks = fence(text)
    first, *_ = MARKDOWN.parse(f"{marks}\n{text}\n{marks}\nafter")
    assert first.type == "fence"
    assert first.content == text + "\n"


def test_anchors():
    assert Section("1. Raw speed", []).anchor == "1-raw-speed"
