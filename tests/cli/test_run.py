"""`stride run`: completion on stdout, timings on stderr."""

import pytest

from stride import LLM


def test_greedy_output_repeats_and_timings_go_to_stderr(stride):
    first, second = (stride("run", "-p", "class", "-n", 8, "--temp", 0) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.strip()
    assert "generated 8" in first.stderr


def test_a_seed_repeats_a_sample(stride):
    first, second = (stride("run", "-p", "Hello", "-n", 8, "--seed", 5) for _ in range(2))
    assert first.stdout == second.stdout


def test_the_prompt_may_come_from_stdin(stride):
    typed = stride("run", "-p", "Hello", "-n", 4, "--temp", 0)
    piped = stride("run", "-p", "-", "-n", 4, "--temp", 0, stdin="Hello")
    assert piped.stdout == typed.stdout


def test_the_output_fits_what_is_asked_for(stride):
    assert stride("run", "-p", "x", "-n", 9, "--regex", "[0-9]{3}").stdout.strip().isdigit()
    assert stride("run", "-p", "x", "-n", 9, "--grammar", 'root ::= "yes" | "no"').stdout.strip() in ("yes", "no")
    assert stride("run", "-p", "x", "-n", 9, "-j", '{"enum": [1, 2]}').stdout.strip() in ("1", "2")


def test_both_backends_agree_on_the_first_token(stride):
    outputs = {stride("run", "-p", "The", "-n", 1, "--temp", 0, "--backend", name).stdout for name in ("cpu", "numpy")}
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temp", -1), "temperature"),
        (("--top-p", 2), "top_p"),
        (("--backend", "gpu"), "'gpu'"),
        (("--cache-type", "q3"), "q3"),
        (("--json-schema", "[]"), "--json-schema must be a JSON object"),
        (("--regex", "(?=a)"), "regex cannot be enforced"),
    ],
)
def test_bad_values_are_refused_by_name(stride, arguments, message):
    result = stride("run", "-p", "x", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_prompt_beyond_the_context_is_refused_with_counts(stride):
    result = stride("run", "-p", "word " * 200, "-c", 32)
    assert result.returncode == 1
    assert "32" in result.stderr
    assert "tokens" in result.stderr


def test_experts_that_stay_on_disk_are_told_of(stride):
    pytest.importorskip("stride._cpu", reason="the C++ extension is not built")
    with LLM(n_ctx=512, cache_ram=0, kv_type="f16") as llm:
        budget = llm.plan.needed - (2 << 20)
    options = ("run", "-p", "Hello", "-n", 8, "--temp", 0, "-c", 512)
    whole, streamed = stride(*options), stride(*options, "--memory", budget)
    assert streamed.returncode == 0, streamed.stderr
    assert streamed.stdout == whole.stdout
    assert "tok/s: " in streamed.stderr
    assert "% found in memory" in streamed.stderr
    assert "found in memory" not in whole.stderr
