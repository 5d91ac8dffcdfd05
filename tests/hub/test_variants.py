"""Which files make one model, and which of several is meant."""

from __future__ import annotations

import pytest

from stride.errors import StrideError
from stride.hub import choose, variants

STEP = [(f"IQ4_XS/Step-3.5-Flash-IQ4_XS-{part:05}-of-00004.gguf", 100) for part in (2, 1, 4, 3)]
FILES = [*STEP, ("Step-3.5-Flash-Q8_0.gguf", 900), ("mmproj-F16.gguf", 5), ("imatrix.gguf", 1), ("README.md", 3)]


def test_parts_are_one_model_in_order():
    small, large = variants(FILES)
    assert (small.tag, small.n_bytes) == ("IQ4_XS", 400)
    assert small.paths == tuple(path for path, _ in sorted(STEP))
    assert (large.tag, large.paths) == ("Q8_0", ("Step-3.5-Flash-Q8_0.gguf",))


@pytest.mark.parametrize(
    ("path", "tag"),
    [
        ("Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("model.BF16.gguf", "BF16"),
        ("x-UD-IQ2_XXS.gguf", "UD-IQ2_XXS"),
        ("gpt-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("sub/plain.gguf", "plain"),
    ],
)
def test_tag(path, tag):
    assert variants([(path, 1)])[0].tag == tag


def test_choice():
    found = variants(FILES)
    assert choose(found, "org/name", "iq4_xs").tag == "IQ4_XS"
    assert choose(found[:1], "org/name", None).tag == "IQ4_XS"
    with pytest.raises(
        StrideError, match=r"holds 2 models; choose one:\n  org/name:IQ4_XS +400 B\n  org/name:Q8_0 +900 B"
    ):
        choose(found, "org/name", None)
    with pytest.raises(StrideError, match="has no 'Q2_K'"):
        choose(found, "org/name", "Q2_K")
    with pytest.raises(StrideError, match="holds no GGUF model"):
        choose([], "org/name", None)
