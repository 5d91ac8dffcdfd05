"""``/metrics`` as Prometheus reads it."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stride import LLM
from stride.server import Models, Settings, create_app
from stride.server.metrics import exposition


def scrape(client):
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert all(family.documentation for family in families.values())
    return families


def value(families, name, **labels):
    samples = [sample for family in families.values() for sample in family.samples if sample.name == name]
    (sample,) = [s for s in samples if labels.items() <= s.labels.items()]
    return sample.value


def test_counters_grow_by_what_was_done(demo, demo_llm):
    before = scrape(demo)
    for _ in range(2):
        demo.ask("/v1/completions", prompt="Once upon", max_tokens=5, ignore_eos=True, draft_max=0)
    after = scrape(demo)

    def grown(name, **labels):
        return value(after, name, **labels) - value(before, name, **labels)

    model = {"model": demo_llm.name}
    assert grown("stride:tokens_predicted_total", **model) == 10
    assert grown("stride:prompt_tokens_total", **model) >= 2
    assert grown("stride:prompt_seconds_total", **model) > 0
    assert grown("stride:tokens_predicted_seconds_total", **model) > 0
    assert grown("stride:n_decode_total", **model) >= 10
    for name, count in {"queue_seconds": 2, "first_token_seconds": 2, "inter_token_seconds": 8}.items():
        assert grown(f"stride:{name}_count", **model) == count
        assert grown(f"stride:{name}_bucket", **model, le="+Inf") == count
        assert grown(f"stride:{name}_sum", **model) >= 0
    assert grown("stride:generated_tokens_per_second_count", **model) == 2
    assert grown("stride:step_sequences_count", **model) == grown("stride:n_decode_total", **model)
    assert value(after, "stride:http_requests_total", method="POST", path="/v1/completions", status="200") == 2


def test_gauges_say_what_is_going_on(demo, demo_llm):
    stream = demo_llm.generate("Once", ignore_eos=True, stream=True)
    next(iter(stream))
    families = scrape(demo)
    stream.cancel()
    assert value(families, "stride:requests_processing") == 1
    assert value(families, "stride:requests_deferred") == 0
    assert 0 < value(families, "stride:kv_cache_usage_ratio") <= 1
    assert value(families, "stride:kv_cache_bytes") == demo_llm.info["kv_bytes"]
    assert value(families, "stride:resident_memory_bytes") > 1 << 20
    assert value(families, "stride:predicted_tokens_seconds") >= 0


def test_buckets_are_cumulative(demo):
    demo.ask("/v1/completions", prompt="Once", max_tokens=3)
    samples = [s for s in scrape(demo)["stride:step_seconds"].samples if s.name.endswith("_bucket")]
    counts = [sample.value for sample in samples]
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_made_up_paths_are_one(demo):
    for i in range(5):
        demo.get(f"/made/up/{i}")
    paths = {sample.labels["path"] for sample in scrape(demo)["stride:http_requests"].samples}
    assert "none" in paths
    assert not any("made" in path for path in paths)


def test_there_are_metrics_before_there_is_a_model(scripted):
    client, _ = scripted()
    loading = type(client)(create_app(Models({"": lambda stopping: None}), Settings()))
    families = scrape(loading)
    assert value(families, "stride:uptime_seconds") >= 0
    assert families["stride:tokens_predicted"].samples == []


def test_experts_on_disk_are_counted(demo_llm):
    """The demo model's once more, within a budget that does not hold all its experts."""
    pytest.importorskip("stride._cpu", reason="the C++ extension is not built")
    options = {"n_ctx": 512, "cache_ram": 0, "kv_type": "f16", "backend": "cpu"}
    with LLM(**options) as llm:
        budget = llm.plan.needed - (2 << 20)
    with LLM(**options, memory=budget) as llm:
        llm.generate("Once upon", max_tokens=8, ignore_eos=True)
        text = exposition({"small": llm, "whole": demo_llm}, {}, 0.0).decode()
        counts = llm.streaming
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert value(families, "stride:expert_misses_total", model="small") == counts.misses > 0
    assert value(families, "stride:expert_hits_total", model="small") == counts.hits > 0
    assert value(families, "stride:expert_read_bytes_total", model="small") == counts.read_bytes > 0
    assert value(families, "stride:experts", model="small") == counts.n_experts
    assert 'stride:expert_slots{model="whole"}' not in text


def test_drafts_are_counted_by_position(demo, demo_llm):
    demo.ask("/v1/completions", prompt="Once upon", max_tokens=40, ignore_eos=True)
    families = scrape(demo)
    for position in range(3):
        labels = {"model": demo_llm.name, "position": str(position)}
        drafted = value(families, "stride:drafted_tokens_total", **labels)
        assert drafted == demo_llm.engine.measures.drafted[position] > 0
    accepted = [sample.value for sample in families["stride:accepted_tokens"].samples]
    assert sum(accepted) == demo_llm.engine.measures.accepted.total()
