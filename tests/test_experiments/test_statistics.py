"""The tests of the report, against hand-computed numbers and simulated experiments."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from afan_mm.experiments.statistics import (
    compare,
    correct,
    detectable_difference,
    holm,
    paired_t,
    power_of_t,
    sign_flip,
    summary,
    verdict,
)

EXPERIMENTS = 1000


def within_binomial_error(count: int, probability: float) -> bool:
    """Not more than three standard errors off."""
    error = math.sqrt(probability * (1 - probability) / EXPERIMENTS)
    return abs(count / EXPERIMENTS - probability) <= 3 * error


def simulated_verdicts(num_arms: int, num_seeds: int, effect: float, seed: int) -> list:
    """The verdicts of arms whose true difference to stock is ``effect`` standard errors."""
    random = np.random.default_rng(seed)
    difference = effect / math.sqrt(num_seeds)
    difficulty = 5 * random.normal(size=num_seeds)  # what a seed does to all arms alike
    stock = dict(enumerate(difficulty))
    family = []
    for arm in range(num_arms):
        values = difficulty + difference + random.normal(size=num_seeds)
        family.append(compare(f'arm{arm}', 'stock', dict(enumerate(values)), stock))
    correct(family)
    return [each.verdict for each in family]


@pytest.mark.parametrize('num_arms', [1, 3])
def test_without_a_difference_better_is_said_in_at_most_a_twentieth(num_arms):
    said = [simulated_verdicts(num_arms, 6, 0.0, seed) for seed in range(EXPERIMENTS)]
    better = sum('better' in verdicts for verdicts in said)
    worse = sum('worse' in verdicts for verdicts in said)
    assert better / EXPERIMENTS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / EXPERIMENTS)
    # one arm: both sides together are the level of the test
    assert num_arms > 1 or within_binomial_error(better + worse, 0.05)


@pytest.mark.parametrize('num_seeds', [5, 7])
def test_a_difference_of_two_standard_errors_is_seen_as_often_as_theory_has_it(num_seeds):
    said = [simulated_verdicts(1, num_seeds, 2.0, seed)[0] for seed in range(EXPERIMENTS)]
    critical = stats.t.ppf(0.975, num_seeds - 1)
    expected = stats.nct.sf(critical, num_seeds - 1, 2.0)  # only the side of 'better'
    assert 0.3 < expected < 0.5
    assert within_binomial_error(said.count('better'), expected)


def test_the_detectable_difference_is_found_in_four_fifths():
    sd, num_seeds = 0.7, 5
    difference = detectable_difference(sd, num_seeds)
    samples = np.random.default_rng(0).normal(difference, sd, (EXPERIMENTS, num_seeds))
    found = sum(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert within_binomial_error(int(found), 0.8)
    assert power_of_t(difference / sd * math.sqrt(num_seeds), num_seeds) == pytest.approx(0.8)


def test_paired_t_by_hand():
    differences = np.array([1.0, 2.0, 3.0])  # mean 2, sd 1, t = 2 sqrt(3) with 2 degrees
    t = 2 * math.sqrt(3)
    # Student's distribution with two degrees of freedom is elementary
    assert paired_t(differences) == pytest.approx(1 - t / math.sqrt(2 + t * t))
    half = 4.302652729911275 / math.sqrt(3)  # of the table, 97.5 %, two degrees
    found = summary(differences)
    assert (found['mean'], found['sd']) == (2.0, 1.0)
    assert (found['low'], found['high']) == pytest.approx((2 - half, 2 + half))


def test_sign_flips_by_listing_them():
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.6])
    flips = np.array(list(itertools.product([-1, 1], repeat=5)))
    as_far = np.abs((flips * differences).mean(1)) >= abs(differences.mean()) - 1e-12
    assert sign_flip(differences) == pytest.approx(as_far.mean())
    assert sign_flip(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(2 / 2**5)


def test_holm_by_hand():
    # 0.01 * 4, then 0.015 * 3, then max(0.045, 0.02 * 2), then 0.3
    assert holm([0.3, 0.01, 0.02, 0.015]) == pytest.approx([0.3, 0.04, 0.045, 0.045])
    found = holm([0.04, math.nan, 0.03])
    assert found[0] == pytest.approx(0.06) and math.isnan(found[1])


def test_pairs_are_the_seeds_that_both_have():
    found = compare('afan', 'stock', {0: 1.0, 1: 3.0, 2: 4.0}, {1: 1.0, 2: 1.0, 3: 9.0})
    assert found.seeds == [1, 2] and found.mean == 2.5


@pytest.mark.parametrize(
    ('mean', 'p', 'seeds', 'larger', 'expected'),
    [
        (1.0, 0.04, 5, True, 'better'),
        (1.0, 0.04, 5, False, 'worse'),
        (-1.0, 0.04, 5, True, 'worse'),
        (1.0, 0.05, 5, True, 'not shown'),
        (1.0, 0.0001, 4, True, 'not shown'),
        (1.0, math.nan, 9, True, 'not shown'),
    ],
)
def test_verdict(mean, p, seeds, larger, expected):
    assert verdict(mean, p, seeds, larger) == expected


def test_too_few_seeds_and_no_spread():
    one = compare('afan', 'stock', {0: 1.0}, {0: 0.5})
    correct([one])
    assert one.mean == 0.5 and math.isnan(one.p_t) and one.verdict == 'not shown'
    same = {seed: 0.1 * seed for seed in range(5)}
    equal = compare('afan', 'stock', same, same)
    correct([equal])
    assert equal.p_t == 1 and equal.p_flip == 1 and equal.verdict == 'not shown'
    shifted = compare('afan', 'stock', dict.fromkeys(range(5), 1.0), dict.fromkeys(range(5), 0.0))
    assert shifted.p_t == 0
