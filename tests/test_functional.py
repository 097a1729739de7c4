"""Moments, Eq. 5 and strengths: by hand on tiny tensors, then against numpy on random ones."""

import numpy as np
import pytest
import torch

from afan_mm.functional import MOMENTS, average, draw_strengths, inject_moments

# (N, C, H, W) = (2, 2, 1, 2)
MAP = torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]], [[[2.0, 6.0]], [[7.0, 3.0]]]])
VECTOR = torch.tensor([[1.0, 3.0], [5.0, 3.0]])  # (N, C) = (2, 2)

# kind, num_groups, mean and biased variance, by hand
OF_MAP = (
    ('batch', 1, [[[[3.0]], [[5.0]]]], [[[[3.5]], [[2.0]]]]),
    (
        'instance',
        1,
        [[[[2.0]], [[5.0]]], [[[4.0]], [[5.0]]]],
        [[[[1.0]], [[0.0]]], [[[4.0]], [[4.0]]]],
    ),
    ('layer', 1, [[[[3.5]]], [[[4.5]]]], [[[[2.75]]], [[[4.25]]]]),
    (
        'group',
        1,
        [[[[3.5]], [[3.5]]], [[[4.5]], [[4.5]]]],
        [[[[2.75]], [[2.75]]], [[[4.25]], [[4.25]]]],
    ),
    (
        'group',
        2,
        [[[[2.0]], [[5.0]]], [[[4.0]], [[5.0]]]],
        [[[[1.0]], [[0.0]]], [[[4.0]], [[4.0]]]],
    ),
    ('positional', 1, [[[[3.0, 4.0]]], [[[4.5, 4.5]]]], [[[[4.0, 1.0]]], [[[6.25, 2.25]]]]),
)
OF_VECTOR = (
    ('batch', 1, [[3.0, 3.0]], [[4.0, 0.0]]),
    ('instance', 1, [[1.0, 3.0], [5.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]),
    ('layer', 1, [[2.0], [4.0]], [[1.0], [1.0]]),
    ('group', 1, [[2.0, 2.0], [4.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]),
    ('group', 2, [[1.0, 3.0], [5.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]),
    ('positional', 1, [[2.0], [4.0]], [[1.0], [1.0]]),
)


@pytest.mark.parametrize(
    'feature, cases', ((MAP, OF_MAP), (VECTOR, OF_VECTOR)), ids=('map', 'vector')
)
@pytest.mark.parametrize('eps', (1e-5, 0.25))
def test_moments_by_hand(feature, cases, eps):
    """The populations, shapes, the biased variance and where eps is added."""
    for kind, num_groups, mean, variance in cases:
        ours = moments(feature, kind, num_groups, eps)
        torch.testing.assert_close(ours[0], torch.tensor(mean), msg=kind)
        torch.testing.assert_close(ours[1], (torch.tensor(variance) + eps).sqrt(), msg=kind)


def moments(feature, kind, num_groups=32, eps=1e-5):
    """Mean and std by the module's averages."""
    mean = average(feature, kind, num_groups)
    return mean, (average((feature - mean).square(), kind, num_groups) + eps).sqrt()


def numpy_moments(feature, kind, num_groups, eps):
    """Mean and std of the population of every single element, by its indices."""
    index = np.indices(feature.shape).reshape(feature.ndim, -1)
    group = index[1] // (feature.shape[1] // num_groups)
    labels = dict(
        batch=index[1:2],
        instance=index[:2],
        layer=index[:1],
        group=np.stack([index[0], group]),
        positional=np.delete(index, 1, 0),
    )[kind]
    same = (labels[:, :, None] == labels[:, None, :]).all(0)
    values = feature.reshape(-1)
    populations = [values[row] for row in same]
    mean = np.array([p.sum() / p.size for p in populations])
    variance = np.array([((p - p.sum() / p.size) ** 2).sum() / p.size for p in populations])
    return mean.reshape(feature.shape), np.sqrt(variance + eps).reshape(feature.shape)


# Among them one sample, one channel, a 1x1 map, and features of one and three spatial axes.
SHAPES = (
    (3, 6, 2, 5),
    (1, 6, 4, 3),
    (4, 6, 1, 1),
    (1, 6, 1, 1),
    (2, 1, 3, 3),
    (5, 6),
    (1, 6),
    (2, 4, 7),
    (2, 4, 2, 3, 2),
)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('kind', MOMENTS)
def test_moments_and_eq_5_against_numpy(kind, shape):
    num_groups = 2 if shape[1] > 1 else 1
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        clean, delta = (
            3 * torch.randn(2, *shape, generator=generator, dtype=torch.float64) + 1
        ).unbind()
        eps = 1e-5 * 10**seed
        mean, std = numpy_moments(clean.numpy(), kind, num_groups, eps)
        for ours, reference in zip(moments(clean, kind, num_groups, eps), (mean, std)):
            torch.testing.assert_close(
                ours.expand(shape), torch.from_numpy(reference), rtol=1e-10, atol=1e-12
            )
        for strength in (1.0, 0.3):
            mean_adv, std_adv = numpy_moments(
                (clean + strength * delta).numpy(), kind, num_groups, eps
            )
            expected = std_adv * (clean.numpy() - mean) / std + mean_adv
            ours = inject_moments(clean, delta, strength, kind, num_groups, eps)
            torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def test_eq_5_by_hand():
    """Clean has mean 2 and std 2, adversarial 6 and 3; the shape stays that of clean."""
    clean = torch.tensor([[0.0], [0.0], [4.0], [4.0]])
    adversarial = torch.tensor([[3.0], [9.0], [9.0], [3.0]])
    mixed = inject_moments(clean, adversarial - clean, kind='batch', eps=0.0)
    torch.testing.assert_close(mixed, torch.tensor([[3.0], [3.0], [9.0], [9.0]]))


def test_unbiased_variances_by_hand():
    """Clean has variance 4 of four values, which is 16/3 unbiased; adversarial 9, which is 12. With
    eps 1 the ratio tells them apart.
    """
    clean = torch.tensor([[0.0], [0.0], [4.0], [4.0]])
    adversarial = torch.tensor([[3.0], [9.0], [9.0], [3.0]])
    for unbiased, ratio in ((False, 10 / 5), (True, 13 / (16 / 3 + 1))):
        mixed = inject_moments(clean, adversarial - clean, kind='batch', eps=1.0, unbiased=unbiased)
        torch.testing.assert_close(mixed, ratio**0.5 * (clean - 2) + 6)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('kind', MOMENTS)
def test_unbiased_variance_is_that_of_n_minus_1(kind, shape):
    """A population of one value keeps its variance of nothing."""
    num_groups = 2 if shape[1] > 1 else 1
    generator = torch.Generator().manual_seed(0)
    clean, delta = torch.randn(2, *shape, generator=generator, dtype=torch.float64).unbind()
    index = np.indices(shape)
    populations = dict(
        batch=index[1],
        instance=index[0] * 100 + index[1],
        layer=index[0],
        positional=np.ravel_multi_index(np.delete(index, 1, 0), np.delete(shape, 1)),
        group=index[0] * 100 + index[1] // (shape[1] // num_groups),
    )[kind]
    count = (populations == populations.flat[0]).sum()
    factor = count / (count - 1) if count > 1 else 1
    (mean, std), (mean_adv, std_adv) = (
        numpy_moments(f.numpy(), kind, num_groups, 0) for f in (clean, clean + delta)
    )
    expected = (
        np.sqrt((factor * std_adv**2 + 0.5) / (factor * std**2 + 0.5)) * (clean.numpy() - mean)
        + mean_adv
    )
    ours = inject_moments(clean, delta, 1.0, kind, num_groups, eps=0.5, unbiased=True)
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('kind', (*MOMENTS, None))
def test_a_strength_for_each_sample(kind, shape):
    """Each sample is mixed as if all samples had its strength."""
    num_groups = 2 if shape[1] > 1 else 1
    generator = torch.Generator().manual_seed(0)
    clean, delta = torch.randn(2, *shape, generator=generator, dtype=torch.float64).unbind()
    strengths = torch.rand(len(clean), generator=generator, dtype=torch.float64)
    mixed = inject_moments(clean, delta, strengths, kind, num_groups)
    for index, strength in enumerate(strengths.tolist()):
        torch.testing.assert_close(
            mixed[index],
            inject_moments(clean, delta, strength, kind, num_groups)[index],
            rtol=1e-12,
            atol=1e-12,
        )


def test_no_moments_returns_adversarial():
    torch.testing.assert_close(
        inject_moments(MAP, torch.ones_like(MAP), 0.5, None), MAP + 0.5, rtol=0, atol=0
    )


@pytest.mark.parametrize('kind', MOMENTS)
@pytest.mark.parametrize('shape', ((0, 4), (0, 4, 7, 7)))
@pytest.mark.parametrize('strength', (0.5, torch.zeros(0)), ids=('one', 'each'))
def test_a_feature_of_no_samples(kind, shape, strength):
    """As of a batch without RoIs."""
    clean = torch.zeros(shape, requires_grad=True)
    mixed = inject_moments(clean, torch.zeros(shape), strength, kind, num_groups=2, unbiased=True)
    mixed.sum().backward()
    assert mixed.shape == clean.grad.shape == shape


@pytest.mark.parametrize('kind', MOMENTS)
def test_no_perturbation_returns_clean(kind):
    """Also where a population is constant: eps keeps 0 / 0 away."""
    for clean in (MAP, VECTOR, torch.full((2, 2, 3, 3), 0.1), torch.zeros(2, 2)):
        torch.testing.assert_close(
            inject_moments(clean, torch.zeros_like(clean), kind=kind, num_groups=2),
            clean,
            rtol=1e-6,
            atol=1e-6,
        )


@pytest.mark.parametrize('kind', MOMENTS)
def test_constant_feature_has_std_of_root_eps(kind):
    for shape in ((2, 4, 3, 3), (2, 4)):
        mean, std = moments(torch.full(shape, 0.1), kind, num_groups=2, eps=1e-5)
        torch.testing.assert_close(mean, torch.full_like(mean, 0.1))
        torch.testing.assert_close(std, torch.full_like(std, 1e-5**0.5))


def test_gradient_of_a_constant_channel_is_finite():
    clean = torch.zeros(2, 3, 4, 4, requires_grad=True)
    inject_moments(clean, torch.full_like(clean, 0.1)).square().sum().backward()
    assert clean.grad.isfinite().all() and clean.grad.abs().max() > 0


def test_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match=r'num_groups must divide the 6 channels .* got 4'):
        average(torch.zeros(2, 6, 3, 3), 'group', 4)
    with pytest.raises(
        ValueError,
        match=r"moments must be one of \('batch', .*'positional'\) or None, but got 'rows'",
    ):
        average(MAP, 'rows')
    with pytest.raises(
        ValueError, match=r"strengths must be one of \('uniform', 'linspace'\), but got 'even'"
    ):
        draw_strengths(2, 'even')


def test_uniform_strengths_fill_the_unit_interval():
    strengths = draw_strengths(4000, 'uniform', torch.Generator().manual_seed(0))
    counts, _ = np.histogram(strengths, bins=10, range=(0, 1))
    assert len(strengths) == 4000 == counts.sum() and counts.min() > 320 and counts.max() < 480


def test_uniform_strengths_depend_on_their_generator_alone():
    def draw(seed):
        return draw_strengths(5, 'uniform', torch.Generator().manual_seed(seed))

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(7), first) and not torch.equal(draw(8), first)
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(draw_strengths(5, 'uniform', generator), first)
    assert not torch.equal(draw_strengths(5, 'uniform', generator), first)


def test_linspace_strengths():
    assert draw_strengths(4, 'linspace').tolist() == [0.25, 0.5, 0.75, 1.0]
    assert draw_strengths(1, 'linspace').tolist() == [1.0]
    assert draw_strengths(0, 'linspace').tolist() == draw_strengths(0, 'uniform').tolist() == []


def test_so_many_strengths_are_each_one_of_the_k():
    """Every rung of the ladder about as often as another, and the whole interval where they are
    uniform.
    """
    rungs, counts = draw_strengths(
        4, 'linspace', torch.Generator().manual_seed(0), size=4000
    ).unique(return_counts=True)
    assert rungs.tolist() == [0.25, 0.5, 0.75, 1.0] and counts.min() > 900 and counts.max() < 1100
    uniform = draw_strengths(2, 'uniform', torch.Generator().manual_seed(0), size=4000)
    assert (
        uniform.shape == (4000,)
        and abs(uniform.mean() - 0.5) < 0.02
        and uniform.min() < 0.01
        and uniform.max() > 0.99
    )
