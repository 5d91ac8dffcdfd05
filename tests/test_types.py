"""Plain data: sampling parameters refuse what cannot be, timings divide by what was measured."""

import math

import numpy as np
import pytest

from stride.errors import ContextOverflowError, ModelFileError, RequestError
from stride.types import SamplingParams, Timings, TokenSet


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 1.5),
        ("min_p", -1.0),
        ("typical_p", 2.0),
        ("top_k", -1),
        ("repeat_penalty", 0.0),
        ("repeat_last_n", -2),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("max_tokens", -1),
        ("dry_multiplier", -1.0),
        ("dry_base", 0.5),
        ("dry_allowed_length", -1),
        ("dry_penalty_last_n", -2),
        ("dry_sequence_breakers", ("",)),
        ("xtc_probability", 1.5),
        ("xtc_threshold", -0.1),
        ("top_n_sigma", math.nan),
        ("dynatemp_range", -1.0),
        ("dynatemp_exponent", math.inf),
        ("mirostat", 3),
        ("mirostat_tau", -1.0),
        ("mirostat_eta", "fast"),
        ("logprobs", -1),
        ("logprobs", 1.5),
        ("logit_bias", {3: math.nan}),
        ("stop", ("",)),
        ("temperature", "hot"),
        ("top_k", 2.5),
        ("max_tokens", 2.5),
        ("seed", "1"),
        ("logit_bias", {"3": 1.0}),
        ("logit_bias", [3]),
        ("stop", (5,)),
        ("stop", ["END"]),
    ],
)
def test_a_bad_sampling_parameter_is_refused_by_name(field, value):
    with pytest.raises(RequestError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == field


def test_a_bias_of_minus_infinity_bans_a_token():
    assert SamplingParams(logit_bias={3: -math.inf}).logit_bias[3] == -math.inf


def test_rates_are_llama_servers_and_one_without_the_first_token_which_the_prompt_paid_for():
    timings = Timings(prompt_n=100, prompt_ms=500, predicted_n=11, predicted_ms=1000)
    assert timings.prompt_per_second == 200
    assert timings.predicted_per_second == 11
    assert timings.decoded_per_second == 10
    assert Timings().prompt_per_second == Timings(predicted_n=1).predicted_per_second == 0
    assert Timings(predicted_n=1).decoded_per_second == 0


def test_file_errors_name_file_tensor_and_offset():
    assert str(ModelFileError("too short", path="a.gguf", tensor="blk.0.x", offset=7)) == (
        "a.gguf: tensor blk.0.x: at byte 7: too short"
    )
    assert str(ModelFileError("empty", path="a.gguf")) == "a.gguf: empty"


def test_overflow_counts():
    error = ContextOverflowError(9000, 8192)
    assert (error.n_prompt_tokens, error.n_ctx) == (9000, 8192)
    assert "9000" in str(error)


@pytest.mark.parametrize("members", [[], [True, False, False], [True, False, True], [True] * 3, [False] * 3])
def test_a_set_of_tokens_holds_what_it_was_made_of(members):
    tokens = TokenSet.of(np.array(members, bool))
    assert [i in tokens for i in range(len(members))] == members
    assert 2 * len(tokens.ids) <= len(members)


def test_a_set_of_tokens_is_within_others():
    few = TokenSet(np.array([2, 5]))
    assert few.is_within({2, 5, 7})
    assert few.is_within({2, 5})
    assert not few.is_within({2})
    assert not few.is_within({2, 4, 7})
    assert not TokenSet(np.array([], int)).is_within({2})
    assert not TokenSet(np.array([2, 5]), excluded=True).is_within({2, 5})
