"""Mooncake's trace format."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.simulation.trace import Part, Row, TraceError, cut, gaps, read

LINE = '{"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [1, 2]}\n'


def rows(*stamps: float) -> list[Row]:
    return [Row(stamp, 600, 3, (1, 2)) for stamp in stamps]


def test_a_trace_is_read_in_order_of_arrival(tmp_path: Path):
    file = tmp_path / "trace.jsonl"
    file.write_text(LINE.replace('"timestamp": 0', '"timestamp": 5') + "\n" + LINE)
    assert [(row.timestamp, row.input_length, row.hash_ids) for row in read(file)] == [
        (0, 600, (1, 2)),
        (5, 600, (1, 2)),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (LINE + "no JSON", "line 2"),
        (LINE.replace("600", "0"), "line 1"),
        (LINE.replace("hash_ids", "ids"), "hash_ids"),
        (LINE.replace("[1, 2]", "[]"), "0 hash_ids for 600 tokens"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path: Path, text: str, said: str):
    file = tmp_path / f"{len(text)}.jsonl"
    file.write_text(text)
    with pytest.raises(TraceError, match=said) as caught:
        read(file)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(TraceError, match=r"nowhere\.jsonl: No such file"):
        read(tmp_path / "nowhere.jsonl")


def test_the_first_third_and_the_rest_are_the_whole():
    whole = rows(*range(10))
    assert cut(whole, Part.FIRST) + cut(whole, Part.REST) == cut(whole, Part.WHOLE) == whole
    assert len(cut(whole, Part.FIRST)) == 3


def test_a_stamp_stands_for_the_time_until_the_next_but_not_for_a_silence():
    assert gaps(rows(0, 0, 3000, 6000, 66_000, 69_000)) == {0: 3000, 3000: 3000, 6000: 3000, 66_000: 3000, 69_000: 3000}
