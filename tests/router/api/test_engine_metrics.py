"""Merging metrics pages: valid text, nothing twice, nothing lost."""

from __future__ import annotations

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from router.api.engine_metrics import merge

PAGE = """# HELP tokens_total Tokens.
# TYPE tokens_total counter
tokens_total{model="a, \\"b\\" }"} 3
# HELP wait_seconds Waiting.
# TYPE wait_seconds histogram
wait_seconds_bucket{le="1.0"} 1
wait_seconds_bucket{le="+Inf"} 2
wait_seconds_sum 3.5
wait_seconds_count 2
bare 7 1700000000000
"""


def test_two_workers_become_one_page_that_prometheus_reads():
    families = list(text_string_to_metric_families(merge({"http://a": PAGE, "http://b": PAGE})))
    counts = Counter(sample.name for family in families for sample in family.samples)
    assert counts == {
        "tokens_total": 2,
        "wait_seconds_bucket": 4,
        "wait_seconds_sum": 2,
        "wait_seconds_count": 2,
        "bare": 2,
    }
    tokens, waits = families[:2]
    assert [s.labels for s in tokens.samples] == [
        {"worker": "http://a", "model": 'a, "b" }'},
        {"worker": "http://b", "model": 'a, "b" }'},
    ]
    assert waits.type == "histogram"


def test_help_and_type_stand_once_and_before_their_samples():
    lines = merge({"http://a": PAGE, "http://b": PAGE}).splitlines()
    assert lines.count("# TYPE wait_seconds histogram") == 1
    assert lines.count("# HELP tokens_total Tokens.") == 1
    first = next(i for i, line in enumerate(lines) if line.startswith("wait_seconds"))
    assert lines[first - 2 : first] == ["# HELP wait_seconds Waiting.", "# TYPE wait_seconds histogram"]


def test_an_engines_own_worker_label_is_kept_under_another_name():
    assert merge({"http://a": 'x{worker="0",my_worker="1"} 2\n'}) == (
        'x{worker="http://a",exported_worker="0",my_worker="1"} 2\n'
    )


def test_what_is_no_metric_is_dropped():
    assert merge({"http://a": "<html>\n\n# EOF\n# a remark\n}{ 1\nx\n", "http://b": ""}) == ""
