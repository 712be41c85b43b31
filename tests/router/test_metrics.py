"""The counters; how they are shown is tests/router/test_exposition.py's."""

from __future__ import annotations

from router.metrics import Histogram, Metrics
from router.usage import Usage


def test_a_histogram_counts_a_value_on_a_bound_below_it():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 1, 1], 12.0)


def test_the_hit_ratio_is_weighed_by_bytes_and_zero_before_the_first_request():
    metrics = Metrics()
    assert metrics.hit_ratio == 0
    metrics.picked(1e-5, 300, 400)
    metrics.picked(1e-5, 0, 600)
    assert metrics.hit_ratio == 0.3


def test_tokens_count_as_cached_or_not_where_the_engine_tells():
    metrics = Metrics()
    metrics.told(Usage(100, 60))
    metrics.told(Usage(100, None))
    assert (metrics.prompt_tokens, metrics.cached_tokens) == (100, 60)
