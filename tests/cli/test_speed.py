"""`stride speed`: llama-bench's fields, from tests it really ran."""

import json


def test_json_has_llama_benchs_fields_and_consistent_numbers(stride):
    result = stride("speed", "-p", "16,32", "-n", 4, "-d", 8, "-r", 2, "-o", "json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [(row["n_prompt"], row["n_gen"], row["n_depth"]) for row in rows] == [(16, 0, 8), (32, 0, 8), (0, 4, 8)]
    for row in rows:
        n = row["n_prompt"] + row["n_gen"]
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == 2
        assert row["avg_ts"] == sum(n * 1e9 / ns for ns in row["samples_ns"]) / 2
        assert row["model_size"] > 0
        assert row["model_n_params"] > 0
    assert [row.get("drafting", {}).get("n_gen") for row in rows] == [None, None, 4]


def test_markdown_is_a_table(stride):
    result = stride("speed", "-p", 8, "-n", 0, "-r", 1)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("| model | size | params | backend | test | t/s |")
    assert "| pp8 |" in lines[2]
    assert "drafting" not in result.stdout


def test_what_drafting_brings_is_told_unless_it_is_off(stride):
    for draft, told in (("heads", True), ("off", False)):
        result = stride("speed", "-p", 0, "-n", 8, "-r", 1, "--draft", draft)
        assert result.returncode == 0, result.stderr
        assert ("drafting, by the model's own 3 heads" in result.stdout) == told


def test_bad_counts_are_refused_by_name(stride):
    result = stride("speed", "-p", "many")
    assert result.returncode == 1
    assert "-p is 'many'" in result.stderr


def test_a_profile_names_the_operations_and_where_the_rest_went(stride):
    result = stride("speed", "-p", 8, "-n", 0, "--profile")
    assert result.returncode == 0, result.stderr
    for name in ("experts", "linear", "attention", "outside operations"):
        assert f"| {name} |" in result.stdout


def test_a_profile_is_not_json(stride):
    result = stride("speed", "--profile", "-o", "json")
    assert result.returncode == 1
    assert "--profile" in result.stderr
