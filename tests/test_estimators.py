"""The cheap estimators of Eq. 4's sum: on average over many draws, the gradient of all the
passes.
"""

import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from support.tiny import HOSTS, batch_of, build, gradients, optim_wrapper, stock_config, with_afan
from support.toy import batch, host

BASE = dict(epsilon=1.0, num_strengths=3, adv_weight=0.7)
DRAWS = 200


def gradient(iteration=0, seed=0, data=None, **settings):
    """The gradient of one step of a host without batch norm, as one vector; the same host every
    time.
    """

    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(model.middle(feature).tanh()), y))

        return tail(tap('site', model.front(x), tail, AFANSettings(**dict(BASE, **settings))))

    model = host(run)
    wrapper = optim_wrapper(model, afan_seed=seed)
    wrapper._inner_count = iteration
    found = gradients(model, batch() if data is None else data, wrapper)
    return torch.cat([g.flatten() for g in found.values() if g is not None])


def assert_unbiased(draws, expected, spread_of_expected=0.0):
    """The mean of the draws is the expectation, as far as so many draws can tell.

    Tolerance: five standard errors of the mean, from the spread of the draws themselves (a one in a
    million event for each of the hundred gradients), and rounding.
    """
    draws = torch.stack(draws)
    error = (draws.var(0) / len(draws) + spread_of_expected).sqrt()
    assert ((draws.mean(0) - expected).abs() <= 5 * error + 1e-10).all()
    return error.norm()


@pytest.mark.parametrize('estimator', ('single', 'per_sample'))
@pytest.mark.parametrize('moments', (None, 'batch'))
@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
def test_unbiased_for_the_ladder(estimator, moments, detach):
    """With fixed strengths the exact gradient is one number, and far from the clean one."""
    settings = dict(strengths='linspace', moments=moments, detach=detach)
    exact = gradient(**settings)
    error = assert_unbiased(
        [gradient(seed=seed, estimator=estimator, **settings) for seed in range(DRAWS)], exact
    )
    # the draws would show a wrong weight
    assert error < 0.05 * (exact - gradient(num_strengths=0)).norm()


@pytest.mark.parametrize('estimator', ('single', 'per_sample'))
def test_unbiased_for_uniform_strengths(estimator):
    """The exact gradient is random itself; its mean is known to its own standard error."""
    exact = torch.stack([gradient(seed=seed) for seed in range(DRAWS)])
    draws = [gradient(seed=seed, estimator=estimator) for seed in range(DRAWS, 2 * DRAWS)]
    assert_unbiased(draws, exact.mean(0), exact.var(0) / DRAWS)


def test_variance_of_a_strength_for_each_sample():
    """Where all eight samples pull the same way, the mean of eight independent strengths has an
    eighth of one strength's variance.
    """
    same = {key: value[:1].expand(8, *value.shape[1:]) for key, value in batch().items()}

    def spread(estimator):
        draws = [
            gradient(seed=seed, data=same, estimator=estimator, strengths='linspace', moments=None)
            for seed in range(DRAWS)
        ]
        return torch.stack(draws).var(0).sum()

    # A variance from so many draws of a bounded number is known to about a tenth.
    assert spread('per_sample') / spread('single') == pytest.approx(1 / 8, rel=0.4)


def test_single_pass_is_one_of_the_passes_weighted_by_k():
    """Taken apart by hand: each draw is the clean gradient plus three times one of three
    adversarial ones.
    """
    settings = dict(strengths='linspace', detach=True)
    clean = gradient(num_strengths=0)
    # With one strength the ladder is its top; epsilon places it on each rung.
    rungs = [
        gradient(
            num_strengths=1, strengths='linspace', detach=True, epsilon=rung / 3, step_size=rung / 3
        )
        - clean
        for rung in (1, 2, 3)
    ]
    seen = set()
    for seed in range(20):
        extra = gradient(seed=seed, estimator='single', **settings) - clean
        distances = [float((extra - 3 * rung).abs().max()) for rung in rungs]
        assert min(distances) < 1e-12
        seen.add(distances.index(min(distances)))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize('estimator', ('sum', 'single', 'per_sample'))
def test_every_nth_iteration_weighted_by_n(estimator):
    """Over n iterations at the same parameters the mean gradient is that of every iteration; the
    passes are in the first of them.
    """
    # one strength, so that nothing is random
    settings = dict(strengths='linspace', num_strengths=1, estimator=estimator)
    exact, clean = gradient(**settings), gradient(num_strengths=0)
    steps = [gradient(iteration=i, interval=4, **settings) for i in range(8)]
    for i, step in enumerate(steps):
        torch.testing.assert_close(
            step, clean + 4 * (exact - clean) if i % 4 == 0 else clean, rtol=1e-10, atol=1e-12
        )
    torch.testing.assert_close(sum(steps) / 8, exact, rtol=1e-10, atol=1e-12)


def test_normalized_chooses_the_strengths_that_eq_5_is_for():
    settings = dict(strengths='linspace', num_strengths=2, detach=True)
    clean = gradient(num_strengths=0)

    def rung(strength, moments):
        return (
            gradient(
                num_strengths=1,
                strengths='linspace',
                detach=True,
                epsilon=strength,
                step_size=strength,
                moments=moments,
            )
            - clean
        )

    for mask in ((False, True), (True, False), (True, True), (False, False)):
        expected = sum(
            rung(strength, 'batch' if on else None) for strength, on in zip((0.5, 1.0), mask)
        )
        torch.testing.assert_close(
            gradient(normalized=mask, **settings) - clean, expected, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize(
    'mask, estimator',
    (((True,), 'sum'), ((1, 0, 1), 'sum'), ('yes', 'sum'), ((True, False, True), 'per_sample')),
)
def test_wrong_masks(mask, estimator):
    with pytest.raises(ValueError, match='normalized must be .* but got '):
        AFANSettings(num_strengths=3, normalized=mask, estimator=estimator)


@pytest.mark.parametrize('name', HOSTS)
def test_iterations_without_passes_use_the_same_parameters(name):
    """Or DDP would wait for gradients that do not come."""
    settings = dict(epsilon=0.1, interval=2)
    model = build(with_afan(stock_config(name), neck=settings, head=settings))
    wrapper = optim_wrapper(model)
    used = []
    for _ in range(2):
        found = gradients(model, batch_of(name), wrapper)
        used.append({key for key, gradient in found.items() if gradient is not None})
    assert wrapper._inner_count == 2 and used[0] == used[1] != set()
    assert wrapper.health.report().keys() == {
        'neck/nonfinite_share',
        f'{"decode" if name == "segmentor" else "roi"}_head/nonfinite_share',
    }
