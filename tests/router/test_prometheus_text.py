"""Reading Prometheus' text format."""

from __future__ import annotations

from router.prometheus_text import mean, ratio, read, total


def test_samples_are_gathered_by_name_without_labels():
    text = 'a:running{rank="0",model="m"} 2.0\na:running{rank="1"} 3\nb 1e3 1395066363000\n'
    assert read(text) == {"a:running": [2.0, 3.0], "b": [1000.0]}


def test_labels_may_hold_anything():
    text = 'm{path="C:\\\\x \\"y\\" } {",s="a b"} 7\nm{} 8\nm{a="1",}9\n'
    assert read(text) == {"m": [7.0, 8.0, 9.0]}


def test_comments_nan_infinities_and_malformed_lines_are_passed_over():
    text = '# HELP m text\n# TYPE m gauge\nm NaN\nm +Inf\nm\nm x\nm{a="1\n{} 3\n1m 4\nm1_0\n\nm 5 6 7\r\nok 1\r\n'
    assert read(text) == {"ok": [1.0]}


def test_a_total_sums_all_samples_and_is_none_when_there_is_none():
    samples = read('x{r="0"} 1\nx{r="1"} 2\ny 4')
    assert total(samples, "x") == 3
    assert total(samples, "x", "y", "z") == 7
    assert total(samples, "z") is None


def test_a_mean_is_of_the_first_name_that_is_there():
    samples = read('new{r="0"} 0.5\nnew{r="1"} 0.7\nold 9')
    assert mean(samples, "new", "old") == 0.6
    assert mean(samples, "gone", "old") == 9
    assert mean(samples, "gone") is None


def test_a_ratio_is_unknown_before_anything_is_counted():
    assert ratio(1, 4) == 0.25
    assert ratio(0, 0) is ratio(None, 4) is ratio(1, None) is None
