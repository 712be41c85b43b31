"""Many workers' Prometheus pages -> one: each sample gains a `worker` label, each HELP and TYPE stands once. Pure.

Text format 0.0.4: all lines of a metric must stand together, so they are collected by metric before they are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_COMMENT = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) .*")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?( \S.*)")
_OWN_LABEL = re.compile(r'(^|,)\s*worker="')


@dataclass
class _Metric:
    comments: dict[str, str] = field(default_factory=dict)  # HELP, TYPE -> line
    samples: list[str] = field(default_factory=list)


def merge(pages: Mapping[str, str]) -> str:
    """`pages` maps a worker's URL to its metrics text. Lines that are no metrics are dropped."""
    metrics: dict[str, _Metric] = {}
    for worker, page in pages.items():
        _collect(worker, page, metrics)
    lines = [line for metric in metrics.values() for line in (*metric.comments.values(), *metric.samples)]
    return "".join(line + "\n" for line in lines)


def _collect(worker: str, page: str, metrics: dict[str, _Metric]) -> None:
    current = ""
    for line in page.splitlines():
        if comment := _COMMENT.fullmatch(line):
            current = comment[2]
            metrics.setdefault(current, _Metric()).comments.setdefault(comment[1], line)
        elif sample := _SAMPLE.fullmatch(line):
            name = current if current and sample[1].startswith(current) else sample[1]
            metrics.setdefault(name, _Metric()).samples.append(_labelled(sample, worker))


def _labelled(sample: re.Match[str], worker: str) -> str:
    # A label of that name from the engine itself is kept as Prometheus keeps it when labels collide.
    labels = _OWN_LABEL.sub(r'\1exported_worker="', (sample[2] or "").strip().rstrip(","))
    return f'{sample[1]}{{worker="{worker}"{"," + labels if labels else ""}}}{sample[3]}'
