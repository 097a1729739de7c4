"""Moments, Eq. 5 and strengths: by hand on tiny tensors, then against numpy on random ones."""
import numpy as np
import pytest
import torch

from afan_mm.functional import MOMENTS, draw_strengths, inject_moments, moments

HALVES = (torch.float16, torch.bfloat16)
MAP = torch.tensor([[[[1., 3.]], [[5., 5.]]], [[[2., 6.]], [[7., 3.]]]])  # (N, C, H, W) = (2, 2, 1, 2)
VECTOR = torch.tensor([[1., 3.], [5., 3.]])  # (N, C) = (2, 2)

# kind, num_groups, mean and biased variance, by hand
OF_MAP = (
    ('batch', 1, [[[[3.]], [[5.]]]], [[[[3.5]], [[2.]]]]),
    ('instance', 1, [[[[2.]], [[5.]]], [[[4.]], [[5.]]]], [[[[1.]], [[0.]]], [[[4.]], [[4.]]]]),
    ('layer', 1, [[[[3.5]]], [[[4.5]]]], [[[[2.75]]], [[[4.25]]]]),
    ('group', 1, [[[[3.5]], [[3.5]]], [[[4.5]], [[4.5]]]], [[[[2.75]], [[2.75]]], [[[4.25]], [[4.25]]]]),
    ('group', 2, [[[[2.]], [[5.]]], [[[4.]], [[5.]]]], [[[[1.]], [[0.]]], [[[4.]], [[4.]]]]),
    ('positional', 1, [[[[3., 4.]]], [[[4.5, 4.5]]]], [[[[4., 1.]]], [[[6.25, 2.25]]]]),
)
OF_VECTOR = (
    ('batch', 1, [[3., 3.]], [[4., 0.]]),
    ('instance', 1, [[1., 3.], [5., 3.]], [[0., 0.], [0., 0.]]),
    ('layer', 1, [[2.], [4.]], [[1.], [1.]]),
    ('group', 1, [[2., 2.], [4., 4.]], [[1., 1.], [1., 1.]]),
    ('group', 2, [[1., 3.], [5., 3.]], [[0., 0.], [0., 0.]]),
    ('positional', 1, [[2.], [4.]], [[1.], [1.]]),
)


@pytest.mark.parametrize('feature, cases', ((MAP, OF_MAP), (VECTOR, OF_VECTOR)), ids=('map', 'vector'))
@pytest.mark.parametrize('eps', (1e-5, 0.25))
def test_moments_by_hand(feature, cases, eps):
    """The populations, shapes, the biased variance and where eps is added."""
    for kind, num_groups, mean, variance in cases:
        ours = moments(feature, kind, num_groups, eps)
        torch.testing.assert_close(ours[0], torch.tensor(mean), msg=kind)
        torch.testing.assert_close(ours[1], (torch.tensor(variance) + eps).sqrt(), msg=kind)


def numpy_moments(feature, kind, num_groups, eps):
    """Mean and std of the population of every single element, by its indices."""
    index = np.indices(feature.shape).reshape(feature.ndim, -1)
    group = index[1] // (feature.shape[1] // num_groups)
    labels = dict(batch=index[1:2], instance=index[:2], layer=index[:1], group=np.stack([index[0], group]),
                  positional=np.delete(index, 1, 0))[kind]
    same = (labels[:, :, None] == labels[:, None, :]).all(0)
    values = feature.reshape(-1)
    populations = [values[row] for row in same]
    mean = np.array([p.sum() / p.size for p in populations])
    variance = np.array([((p - p.sum() / p.size)**2).sum() / p.size for p in populations])
    return mean.reshape(feature.shape), np.sqrt(variance + eps).reshape(feature.shape)


# Among them one sample, one channel, a 1x1 map, and features of one and three spatial axes.
SHAPES = ((3, 6, 2, 5), (1, 6, 4, 3), (4, 6, 1, 1), (1, 6, 1, 1), (2, 1, 3, 3), (5, 6), (1, 6), (2, 4, 7), (2, 4, 2, 3, 2))


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('kind', MOMENTS)
def test_moments_and_eq_5_against_numpy(kind, shape):
    num_groups = 2 if shape[1] > 1 else 1
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        clean, adversarial = (3 * torch.randn(2, *shape, generator=generator, dtype=torch.float64) + 1).unbind()
        eps = 1e-5 * 10**seed
        mean, std = numpy_moments(clean.numpy(), kind, num_groups, eps)
        for ours, reference in zip(moments(clean, kind, num_groups, eps), (mean, std)):
            torch.testing.assert_close(ours.expand(shape), torch.from_numpy(reference), rtol=1e-10, atol=1e-12)
        mean_adv, std_adv = numpy_moments(adversarial.numpy(), kind, num_groups, eps)
        expected = std_adv * (clean.numpy() - mean) / std + mean_adv
        torch.testing.assert_close(inject_moments(clean, adversarial, kind, num_groups, eps), torch.from_numpy(expected),
                                   rtol=1e-10, atol=1e-10)


def test_eq_5_by_hand():
    """Clean has mean 2 and std 2, adversarial 6 and 3; the shape stays that of clean."""
    clean = torch.tensor([[0.], [0.], [4.], [4.]])
    adversarial = torch.tensor([[3.], [9.], [9.], [3.]])
    mixed = inject_moments(clean, adversarial, 'batch', eps=0.0)
    torch.testing.assert_close(mixed, torch.tensor([[3.], [3.], [9.], [9.]]))


def test_no_moments_returns_adversarial():
    adversarial = MAP + 1
    assert inject_moments(MAP, adversarial, None) is adversarial


@pytest.mark.parametrize('kind', MOMENTS)
def test_no_perturbation_returns_clean(kind):
    """Also where a population is constant: eps keeps 0 / 0 away."""
    for clean in (MAP, VECTOR, torch.full((2, 2, 3, 3), 0.1), torch.zeros(2, 2)):
        torch.testing.assert_close(inject_moments(clean, clean.clone(), kind, num_groups=2), clean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('kind', MOMENTS)
def test_constant_feature_has_std_of_root_eps(kind):
    for shape in ((2, 4, 3, 3), (2, 4)):
        mean, std = moments(torch.full(shape, 0.1), kind, num_groups=2, eps=1e-5)
        torch.testing.assert_close(mean, torch.full_like(mean, 0.1))
        torch.testing.assert_close(std, torch.full_like(std, 1e-5**0.5))


def test_gradient_of_a_constant_channel_is_finite():
    clean = torch.zeros(2, 3, 4, 4, requires_grad=True)
    inject_moments(clean, clean + 0.1).square().sum().backward()
    assert clean.grad.isfinite().all() and clean.grad.abs().max() > 0


@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('kind', MOMENTS)
def test_half_precision_keeps_a_small_perturbation(kind, dtype):
    """A shift by 0.4/255 moves the mean by as much and leaves the std; in half precision it would be rounded."""
    generator = torch.Generator().manual_seed(0)
    clean = (1 + torch.rand(4, 8, 6, 6, generator=generator)).to(dtype)
    shift = 0.4 / 255
    assert not torch.allclose((clean + shift).float() - clean.float(), torch.tensor(shift), rtol=0.05)
    for ours, exact in zip(moments(clean, kind, 4), moments(clean.double(), kind, 4)):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)
    moved = inject_moments(clean, clean.float() + shift, kind, 4) - clean.float()
    torch.testing.assert_close(moved, torch.full_like(moved, shift), rtol=1e-2, atol=0)


def test_errors_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"num_groups must divide the 6 channels .* got 4"):
        moments(torch.zeros(2, 6, 3, 3), 'group', 4)
    with pytest.raises(ValueError, match=r"moments must be one of \('batch', .*'positional'\) or None, but got 'rows'"):
        moments(MAP, 'rows')
    with pytest.raises(ValueError, match=r"strengths must be one of \('uniform', 'linspace'\), but got 'even'"):
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
    assert draw(7) == first != draw(8)
    generator = torch.Generator().manual_seed(7)
    assert [draw_strengths(5, 'uniform', generator), draw_strengths(5, 'uniform', generator)][1] != first


def test_linspace_strengths():
    assert draw_strengths(4, 'linspace') == [0.25, 0.5, 0.75, 1.0]
    assert draw_strengths(1, 'linspace') == [1.0]
    assert draw_strengths(0, 'linspace') == draw_strengths(0, 'uniform') == []
