"""Reads Prometheus' text format: metric name -> sample values, and what engines' loads need of them. Pure."""

from __future__ import annotations

import math
import re

Samples = dict[str, list[float]]

# name, optional labels, value, optional timestamp; a label's value may hold anything, with quotes escaped.
# https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
_SAMPLE = re.compile(
    r'\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\}|(?=\s))\s*([^\s_]+)(?:\s+-?\d+)?\s*'
)


def read(text: str) -> Samples:
    """All samples of `text` by metric name, labels dropped; NaN, infinities and malformed lines are passed over."""
    samples: Samples = {}
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        value = _number(match[2]) if match else None
        if match and value is not None:
            samples.setdefault(match[1], []).append(value)
    return samples


def total(samples: Samples, *names: str) -> float | None:
    """The sum over all samples of these metrics, None when there is none: absent is not 0."""
    values = [value for name in names for value in samples.get(name, ())]
    return sum(values) if values else None


def mean(samples: Samples, *names: str) -> float | None:
    """The mean over the samples of the first of these metrics that is there: new names first, then old ones."""
    values = next((samples[name] for name in names if name in samples), None)
    return sum(values) / len(values) if values else None


def ratio(part: float | None, whole: float | None) -> float | None:
    """part / whole, None when either is not known or nothing has been counted yet."""
    return part / whole if part is not None and whole else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
