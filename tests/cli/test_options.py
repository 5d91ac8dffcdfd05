"""Options that several commands share."""

from __future__ import annotations

import pytest

from stride.cli.options import drafting
from stride.errors import RequestError


@pytest.mark.parametrize(
    ("given", "draft", "most"),
    [
        (("auto", None), "auto", None),
        (("off", 3), "off", 3),
        (("16", None), "auto", 16),  # llama-server's --draft
        (("16", 4), "auto", 4),
        (("auto", None, "small.gguf"), "small.gguf", None),
        (("16", None, "small.gguf", "draft-simple"), "small.gguf", 16),
        (("auto", None, None, "none"), "off", None),
        (("auto", None, None, "draft-mtp"), "heads", None),
        (("auto", None, None, "ngram-map-k4v"), "lookup", None),
        (("auto", None, None, "draft-mtp,ngram-mod"), "heads", None),
        (("lookup", None, None, "draft-mtp"), "lookup", None),
    ],
)
def test_what_drafts_by_our_names_and_llama_servers(given, draft, most):
    assert drafting(*given) == {"draft": draft, "draft_max": most}


def test_an_unknown_kind_is_refused():
    with pytest.raises(RequestError, match="eagle is none of"):
        drafting("auto", None, None, "eagle-3")
