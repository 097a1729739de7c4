"""Paired comparison of arms over seeds."""

import functools
import math
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy import optimize, stats

ALPHA = 0.05
POWER = 0.8
LEAST_SEEDS = 5  # for a verdict: below it even the sign-flip test cannot come near ALPHA
MAX_EXACT = 15  # seeds up to which all sign flips are tried; 2**15 of them
VERDICTS = ('better', 'worse', 'not shown')


@dataclass
class Comparison:
    """An arm minus a reference, paired by seed.

    Attributes:
        arm, reference: Their names.
        seeds: Those that both have.
        mean, sd: Of the differences; sd with n - 1. NaN where there are too few seeds.
        interval: 95 % t interval of the mean.
        p_t: Two-sided paired t-test.
        p_flip: Two-sided sign-flip permutation test of the mean, exact up to 15 seeds. With n seeds
            it is never below 2 / 2**n.
        p_holm: ``p_t`` corrected by Holm over the arms that are compared with this reference.
        detectable: Smallest true mean difference that a paired t-test at level 0.05 finds with
            probability 0.8 for this many seeds and this sd (one comparison, not corrected).
        verdict: 'better' or 'worse' where ``p_holm < 0.05`` with at least five seeds, otherwise
            'not shown'.
    """

    arm: str
    reference: str
    seeds: List[int]
    mean: float
    sd: float
    interval: Tuple[float, float]
    p_t: float
    p_flip: float
    detectable: float
    p_holm: float = math.nan
    verdict: str = 'not shown'


def summary(values: Sequence[float]) -> Dict[str, float]:
    """Mean, standard deviation (n - 1) and 95 % t interval ``low``, ``high`` of one arm."""
    mean, sd, (low, high) = _interval(np.asarray(values, dtype=float))
    return dict(n=len(values), mean=mean, sd=sd, low=low, high=high)


def compare(
    arm: str, reference: str, ours: Mapping[int, float], theirs: Mapping[int, float]
) -> Comparison:
    """Pair an arm's values with a reference's by seed; without Holm's correction and a verdict,
    which :func:`correct` adds.
    """
    seeds = sorted(set(ours) & set(theirs))
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds], dtype=float)
    mean, sd, interval = _interval(differences)
    return Comparison(
        arm=arm,
        reference=reference,
        seeds=seeds,
        mean=mean,
        sd=sd,
        interval=interval,
        p_t=paired_t(differences),
        p_flip=sign_flip(differences),
        detectable=detectable_difference(sd, len(seeds)),
    )


def correct(comparisons: Sequence[Comparison], larger_is_better: bool = True) -> None:
    """Fill ``p_holm`` and ``verdict`` of the comparisons of one family."""
    for each, p in zip(comparisons, holm([each.p_t for each in comparisons])):
        each.p_holm = p
        each.verdict = verdict(each.mean, p, len(each.seeds), larger_is_better)


def verdict(mean: float, p_holm: float, num_seeds: int, larger_is_better: bool = True) -> str:
    """One of ``VERDICTS``, by the Holm-corrected paired t-test alone."""
    if num_seeds < LEAST_SEEDS or not p_holm < ALPHA:
        return 'not shown'
    return 'better' if (mean > 0) == larger_is_better else 'worse'


def paired_t(differences: np.ndarray) -> float:
    """Two-sided p of a t-test on paired differences; NaN below two, 1 where all are zero."""
    if len(differences) < 2:
        return math.nan
    if not np.any(differences):
        return 1.0
    if np.ptp(differences) == 0:
        return 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def sign_flip(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of the permutation test that flips the signs of the differences. All ``2**n``
    flips up to 15 of them, beyond that as many at random; NaN below two.
    """
    if len(differences) < 2:
        return math.nan
    result = stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type='samples',
        vectorized=True,
        n_resamples=2**MAX_EXACT,
        random_state=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> List[float]:
    """Holm's step-down correction (Holm 1979). A NaN stays NaN and does not count."""
    order = sorted(
        (index for index, p in enumerate(p_values) if not math.isnan(p)),
        key=lambda index: p_values[index],
    )
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def detectable_difference(sd: float, n: int, power: float = POWER, alpha: float = ALPHA) -> float:
    """The true mean difference that a two-sided paired t-test finds with probability ``power``."""
    if n < 2 or math.isnan(sd):
        return math.nan
    return detectable_standard_errors(n, power, alpha) * sd / math.sqrt(n)


@functools.lru_cache(maxsize=None)
def detectable_standard_errors(n: int, power: float = POWER, alpha: float = ALPHA) -> float:
    """The same in standard errors of the mean difference, which depends on n alone."""
    return float(optimize.brentq(lambda nc: power_of_t(nc, n, alpha) - power, 0.0, 1e3))


def power_of_t(standard_errors: float, n: int, alpha: float = ALPHA) -> float:
    """Probability that a two-sided paired t-test of n seeds rejects at level alpha, where the true
    mean difference is so many standard errors.
    """
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    above = stats.nct.sf(critical, n - 1, standard_errors)
    below = stats.nct.cdf(-critical, n - 1, standard_errors)
    # far out the tail on the other side underflows to NaN
    return float(above + (0.0 if math.isnan(below) else below))


def _interval(values: np.ndarray) -> Tuple[float, float, Tuple[float, float]]:
    mean = float(values.mean()) if len(values) else math.nan
    sd: Optional[float] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    half = (
        stats.t.ppf(1 - ALPHA / 2, len(values) - 1) * sd / math.sqrt(len(values))
        if len(values) > 1
        else math.nan
    )
    return mean, sd, (float(mean - half), float(mean + half))
