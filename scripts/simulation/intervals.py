"""How sure a mean is: bootstrap intervals over few runs. Pure: the random numbers are always the same."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from math import exp, log, sqrt
from operator import add, itemgetter
from statistics import NormalDist, fmean

RESAMPLES = 4000
LEVEL = 0.95
SEED = 1

# The 97.5 % quantile of Student's t by its degrees of freedom; beyond the last the normal one is near enough.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval; without one (None) when there is a single run."""

    value: float
    low: float | None = None
    high: float | None = None


@functools.cache
def estimate(strata: tuple[tuple[float, ...], ...]) -> Estimate:
    """The mean of the strata's means. Each stratum (a cell) is resampled by itself, as its runs were made.

    With a handful of runs a percentile interval is too narrow; its percentiles are taken further out, by the factor by
    which Student's interval is wider than the normal one (the expanded percentile interval: Hesterberg, What Teachers
    Should Know About the Bootstrap, The American Statistician 69(4), 2015).
    """
    value = fmean(map(fmean, strata))
    smallest = min(map(len, strata))
    if smallest < 2:
        return Estimate(value)
    totals: Iterable[float] = repeat(0.0, RESAMPLES)
    for place, runs in enumerate(strata):
        totals = map(add, totals, _resampled(runs, place))
    means = sorted(total / len(strata) for total in totals)
    tail = _tail(smallest, sum(len(runs) - 1 for runs in strata))
    return Estimate(value, _quantile(means, tail), _quantile(means, 1 - tail))


def _resampled(runs: Sequence[float], place: int) -> Sequence[float]:
    """The means of RESAMPLES resamples; for another place other ones."""
    distinct, pick = _drawn(len(runs), place)
    return pick([sum(map(runs.__getitem__, drawn)) / len(runs) for drawn in distinct])


@functools.cache
def _drawn(count: int, place: int) -> tuple[list[tuple[int, ...]], Callable[[list[float]], tuple[float, ...]]]:
    """The resamples of `count` runs, each once, and what makes RESAMPLES of them: of five runs there are but 126."""
    rng = random.Random(f"{SEED} {count} {place}")
    drawn = [tuple(sorted(rng.choices(range(count), k=count))) for _ in range(RESAMPLES)]
    number = {resample: place for place, resample in enumerate(dict.fromkeys(drawn))}
    return list(number), itemgetter(*map(number.__getitem__, drawn))


def _tail(runs: int, freedom: int) -> float:
    """The share of resamples outside of each end of the interval."""
    normal = NormalDist()
    student = STUDENT[freedom - 1] if freedom <= len(STUDENT) else normal.inv_cdf((1 + LEVEL) / 2)
    return normal.cdf(-student * sqrt(runs / (runs - 1)))


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, max(0, round(share * (len(values) - 1))))]


def relative(strata: Sequence[Sequence[tuple[float, float]]]) -> Estimate | None:
    """By how much the first of each pair differs from the second: the geometric mean of their ratios, less 1.

    None when some figure is 0 or missing, and has no ratio.
    """
    if not all(ours > 0 and theirs > 0 for pairs in strata for ours, theirs in pairs):  # nan neither
        return None
    logs = estimate(tuple(tuple(log(ours / theirs) for ours, theirs in pairs) for pairs in strata))
    low, high = (None if end is None else exp(end) - 1 for end in (logs.low, logs.high))
    return Estimate(exp(logs.value) - 1, low, high)
