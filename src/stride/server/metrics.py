"""``/metrics``: what the engines and the server count, in Prometheus' text format.

Names are llama-server's with ``stride:`` for ``llamacpp:``, and more, histograms above all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stride.api import LLM
from stride.engine import Engine, Histogram

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "stride:"

_HISTOGRAMS = {
    "queue_seconds": "Time that requests waited for a place",
    "first_token_seconds": "Time from a request to its first token",
    "inter_token_seconds": "Time between two tokens of a request",
    "prompt_tokens_per_second": "Prompt processing rates of requests",
    "generated_tokens_per_second": "Generation rates of requests",
    "step_seconds": "Time of the model's steps",
    "step_sequences": "Sequences computed together in a step",
    "step_tokens": "Tokens computed together in a step",
}
"""Fields of `Measures`, and what they are."""
_DRAFTS = {
    "drafted_tokens": "Tokens guessed ahead and verified, by how many of the same guess came before",
    "accepted_tokens": "Those of them that were right",
}


def exposition(models: Mapping[str, LLM], requests: Mapping[tuple[str, str, int], int], started: float) -> bytes:
    """All metrics of the loaded models, by name, and of the server."""
    registry = CollectorRegistry()
    registry.register(_Collected([*_of_models(models), *_of_server(requests, started)]))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_models(models: Mapping[str, LLM]) -> Iterator[Metric]:
    engines = {name: llm.engine for name, llm in models.items()}
    counters: dict[str, tuple[str, dict[str, float]]] = {
        "prompt_tokens": ("Prompt tokens processed, without cached ones", {}),
        "prompt_tokens_cached": ("Prompt tokens taken from the cache", {}),
        "prompt_seconds": ("Time in which requests had their prompts processed", {}),
        "tokens_predicted": ("Tokens generated", {}),
        "tokens_predicted_seconds": ("Time in which requests generated", {}),
        "n_decode": ("Steps of the model", {}),
    }
    gauges: dict[str, tuple[str, dict[str, float]]] = {
        "n_tokens_max": ("Tokens of the longest sequence", {}),
        "prompt_tokens_seconds": ("Prompt tokens per second, on average", {}),
        "predicted_tokens_seconds": ("Generated tokens per second, on average", {}),
        "requests_processing": ("Requests that are computed", {}),
        "requests_deferred": ("Requests that wait for a place", {}),
        "n_busy_slots_per_decode": ("Sequences per step, on average", {}),
        "kv_cache_usage_ratio": ("Busy share of the cache's pages", {}),
        "kv_cache_bytes": ("Memory that the cache may come to take", {}),
    }
    for name, engine in engines.items():
        for metric, value in _values(engine).items():
            (counters if metric in counters else gauges)[metric][1][name] = value
        gauges["kv_cache_bytes"][1][name] = models[name].info["kv_bytes"]
    for metric, (text, values) in counters.items():
        yield _family(CounterMetricFamily(_PREFIX + metric, text, labels=["model"]), values)
    for metric, (text, values) in gauges.items():
        yield _family(GaugeMetricFamily(_PREFIX + metric, text, labels=["model"]), values)
    yield from _of_streams(models)
    ends = CounterMetricFamily(_PREFIX + "requests", "Requests that ended", labels=["model", "reason"])
    for name, engine in engines.items():
        for reason, count in engine.measures.ends.copy().items():
            ends.add_metric([name, reason], count)
    yield ends
    for metric, text in _DRAFTS.items():
        drafts = CounterMetricFamily(_PREFIX + metric, text, labels=["model", "position"])
        for name, engine in engines.items():
            for position, count in sorted(getattr(engine.measures, metric.removesuffix("_tokens")).copy().items()):
                drafts.add_metric([name, str(position)], count)
        yield drafts
    for metric, text in _HISTOGRAMS.items():
        family = HistogramMetricFamily(_PREFIX + metric, text, labels=["model"])
        for name, engine in engines.items():
            histogram: Histogram = getattr(engine.measures, metric)
            bounds = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
            sums = itertools.accumulate(histogram.counts)
            family.add_metric([name], list(zip(bounds, sums, strict=True)), histogram.sum)
        yield family


_STREAM_COUNTERS = {
    "expert_hits": ("Experts that were in memory when a layer wanted them", "hits"),
    "expert_misses": ("Experts that were read when a layer wanted them", "misses"),
    "experts_expected": ("Experts that were read ahead", "expected"),
    "experts_came_true": ("Experts read ahead that a layer wanted then", "came_true"),
    "expert_read_bytes": ("Bytes of experts read from disk", "read_bytes"),
    "expert_wait_seconds": ("Time in which nothing could be computed until an expert was read", "waited_seconds"),
}
_STREAM_GAUGES = {
    "expert_slots": ("Experts that fit in memory", "n_slots"),
    "expert_slot_bytes": ("Memory of one of them", "slot_bytes"),
    "experts": ("Routed experts in all", "n_experts"),
}


def _of_streams(models: Mapping[str, LLM]) -> Iterator[Metric]:
    """Of models whose experts stay on disk; nothing where there are none."""
    streams = {name: counts for name, llm in models.items() if (counts := llm.streaming) is not None}
    if not streams:
        return
    for kind, table in ((CounterMetricFamily, _STREAM_COUNTERS), (GaugeMetricFamily, _STREAM_GAUGES)):
        for metric, (text, field) in table.items():
            family = kind(_PREFIX + metric, text, labels=["model"])
            yield _family(family, {name: getattr(counts, field) for name, counts in streams.items()})


def _values(engine: Engine) -> dict[str, float]:
    counts, measures = engine.metrics, engine.measures
    n_steps = sum(measures.step_sequences.counts)
    return {
        "prompt_tokens": counts.prompt_tokens,
        "prompt_tokens_cached": counts.cached_tokens,
        "prompt_seconds": measures.prompt_seconds,
        "tokens_predicted": counts.generated_tokens,
        "tokens_predicted_seconds": measures.generation_seconds,
        "n_decode": n_steps,
        "n_tokens_max": measures.longest,
        "prompt_tokens_seconds": _ratio(counts.prompt_tokens, measures.prompt_seconds),
        "predicted_tokens_seconds": _ratio(counts.generated_tokens, measures.generation_seconds),
        "requests_processing": counts.running,
        "requests_deferred": counts.queued,
        "n_busy_slots_per_decode": _ratio(measures.step_sequences.sum, n_steps),
        "kv_cache_usage_ratio": _ratio(sum(counts.busy_pages), sum(counts.total_pages)),
    }


def _of_server(requests: Mapping[tuple[str, str, int], int], started: float) -> Iterator[Metric]:
    labels = ["method", "path", "status"]
    ended = CounterMetricFamily(_PREFIX + "http_requests", "Requests answered; status 0: not to the end", labels=labels)
    for (method, path, status), count in dict(requests).items():
        ended.add_metric([method, path, str(status)], count)
    yield ended
    memory = psutil.Process().memory_info().rss
    yield GaugeMetricFamily(_PREFIX + "resident_memory_bytes", "Memory of this process, mapped files included", memory)
    yield GaugeMetricFamily(_PREFIX + "uptime_seconds", "Time since the server was started", time.time() - started)


def _family(family: Metric, values: Mapping[str, float]) -> Metric:
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
    for name, value in values.items():
        family.add_metric([name], value)
    return family


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
