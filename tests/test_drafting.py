"""What drafts for a model: by name, by file, and what the plan of memory says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stride import LLM, demo
from stride.errors import RequestError
from stride.memory import Plan

QWEN2 = Path(__file__).parent / "golden" / "qwen2.gguf"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}


def loaded(draft: str, **options: Any) -> tuple[LLM, Plan]:
    plans: list[Plan] = []
    return LLM(draft=draft, n_ctx=512, planned=plans.append, **options), plans[0]


@pytest.mark.parametrize("draft", ["auto", "heads", "lookup", str(demo.path())])
def test_the_text_is_the_same_whatever_drafts(draft: str) -> None:
    llm, plan = loaded("off")
    with llm:
        expected = llm.generate("a a a a", **GREEDY)
        off, off_plan = llm.generate("a a a a", seed=2, max_tokens=24).text, plan
        assert expected.timings.draft_n is None
    llm, plan = loaded(draft)
    with llm:
        assert llm.generate("a a a a", **GREEDY).text == expected.text
        assert llm.generate("a a a a", seed=2, max_tokens=24).text == off
        assert llm.generate("a a a a", **GREEDY, draft_max=0).timings.draft_n is None
    assert plan.needed > off_plan.needed
    assert (plan.draft > 0) == (draft not in ("auto", "heads", "lookup"))


def test_draft_layers_are_not_read_where_nothing_asks_for_them() -> None:
    read: dict[str, int] = {}
    for draft in ("off", "heads"):

        def progress(done: int, total: int, draft: str = draft) -> None:
            assert done <= total
            read[draft] = done

        llm, plan = loaded(draft, progress=progress)
        with llm:
            assert len(llm.config.draft_layers) == (3 if draft == "heads" else 0)
        assert ("3 draft layers are not read" in str(plan)) == (draft == "off")
    assert read["off"] < read["heads"]


@pytest.mark.parametrize(
    ("model", "options", "kind", "most"),
    [
        (None, {}, "heads", 3),
        (None, {"draft_max": 2}, "heads", 2),
        (None, {"draft_max": 0}, "off", 0),
        (QWEN2, {}, "lookup", 8),
        (QWEN2, {"draft": "lookup", "draft_max": 5}, "lookup", 5),
        (QWEN2, {"draft": QWEN2}, "model", 8),
    ],
)
def test_what_drafts_by_default(model: Path | None, options: dict[str, Any], kind: str, most: int) -> None:
    with LLM(model, n_ctx=64, **options) as llm:
        assert (llm.draft_kind, llm.engine.config.draft_max) == (kind, most)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": QWEN2, "draft": "heads"}, "the model has none"),
        ({"draft": QWEN2}, "another vocabulary"),
        ({"draft": ""}, "draft is ''"),
        ({"draft": 3}, "draft is 3"),
        ({"draft_max": -1}, "draft_max is -1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        LLM(**options)
    assert str(refused.value.field).startswith("draft")
