"""What drafting brings, measured by turns."""

from __future__ import annotations

import pytest

from stride import LLM, demo
from stride.bench.drafting import measure


@pytest.mark.parametrize("n_sequences", [1, 2])
def test_a_model_that_drafts_for_itself_is_always_right(n_sequences: int) -> None:
    with LLM(n_ctx=512, n_parallel=2, draft=demo.path(), draft_max=2) as llm:
        found = measure(llm, n_gen=24, repeats=2, n_sequences=n_sequences)
    assert found.plain_ts > 0
    assert found.draft_ts > 0
    assert all(share == 1 for share in found.acceptance)
    assert 1 <= found.tokens_per_step <= 3
    assert "guessed" in str(found)


def test_without_drafts_a_step_is_a_token() -> None:
    with LLM(n_ctx=512, draft="off") as llm:
        found = measure(llm, n_gen=8, repeats=1)
    assert (found.acceptance, found.drafted, found.tokens_per_step) == ((), (), 1)
