"""Perturbations measured in the l2 norm, of a sample or of a position, and noise of that norm."""

import math

import numpy as np
import pytest
import torch

from afan_mm import AFANSettings, augment
from afan_mm.attack import pgd
from afan_mm.engine.site_table import site_table
from afan_mm.norms import L2, Linf, l2_norm, norm_axes, vectors_along

OVER = ('sample', 'position')
SHAPES = ((3, 5), (2, 3, 4, 2), (2, 3, 5), (1, 4, 1, 1))


def normal(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def numpy_length(vector, over):
    """Of every vector, repeated over its elements."""
    vector = np.asarray(vector)
    axes = 1 if over == 'position' or vector.ndim == 2 else tuple(range(1, vector.ndim))
    return np.broadcast_to(np.sqrt((vector**2).sum(axes, keepdims=True)), vector.shape)


def perturb(feature, gradient, scale=1.0, seed=0, **settings):
    """The perturbation of one feature, or of several levels, on a linear loss."""
    several = isinstance(feature, list)
    features, gradients = (feature, gradient) if several else ([feature], [gradient])
    found = augment.perturb(
        AFANSettings(**dict(dict(norm='l2'), **settings)),
        features,
        lambda deltas: gradients,
        gradients,
        scale,
        generator(seed),
    )
    assert bool(found.finite)
    return found.deltas if several else found.deltas[0]


def test_lengths_by_hand():
    """Two positions of two channels, (3, 4) and (0, 12), and a sample of nothing."""
    feature = torch.tensor([[[3.0, 0.0], [4.0, 12.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert l2_norm(feature, 'position').tolist() == [[[5.0, 12.0]], [[0.0, 0.0]]]
    assert l2_norm(feature, 'sample').tolist() == [[[13.0]], [[0.0]]]
    torch.testing.assert_close(
        vectors_along(feature, 'position')[0], torch.tensor([[0.6, 0.0], [0.8, 1.0]])
    )
    torch.testing.assert_close(vectors_along(feature)[0], feature[0] / 13)
    assert not vectors_along(feature)[1].any() and not vectors_along(feature, 'position')[1].any()


def test_unknown_set():
    with pytest.raises(ValueError, match="norm_over must be one of .* but got 'channel'"):
        norm_axes(torch.zeros(2, 3), 'channel')


@pytest.mark.parametrize('largest', (1e-44, 1e-30, 1e-7, 1.0, 1e30, 3e38))
def test_direction_of_gradients_near_the_limits_of_float32(largest):
    """Where the squares underflow or overflow, (0.6, 0.8) is still found."""
    vector = torch.tensor([[0.75, 1.0]]) * largest
    found = vectors_along(vector)
    # 1e-44 is seven times the smallest number there is: its neighbours are 14 % away
    torch.testing.assert_close(
        found, torch.tensor([[0.6, 0.8]]), rtol=0.05 if largest < 1e-40 else 1e-6, atol=0
    )
    torch.testing.assert_close(l2_norm(found), torch.ones(1, 1))


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16))
@pytest.mark.parametrize('size', (1e-7, 1.0, 6e4))
def test_half_precision_gradients(dtype, size):
    """The direction is the rounded gradient's, in float32; 1e-7 is next to float16's smallest."""
    grad = (normal((2, 3, 4, 4)).clamp(-1, 1) * size).to(dtype)
    assert grad.any() and grad.isfinite().all()
    feature = torch.ones(2, 3, 4, 4, dtype=dtype)
    for over in OVER:
        delta = perturb(feature, grad, epsilon=0.4 / 255, norm_over=over)
        exact = grad.double() / numpy_length(grad.double(), over).clip(1e-300) * 0.4 / 255
        assert delta.dtype == torch.float32
        torch.testing.assert_close(delta.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize('dtype', (torch.float16, torch.float32, torch.float64), ids=str)
def test_attack_is_in_full_precision(dtype):
    feature = torch.full((2, 40000), 10.0, dtype=dtype)
    for random_start in (False, True):
        found = pgd(
            [feature],
            lambda deltas: [torch.ones_like(feature)],
            [50.0],
            [100.0],
            random_start=random_start,
            norms=[L2()],
        ).deltas[0]
        assert found.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(
            l2_norm(found), torch.full((2, 1), 50.0), rtol=0.02, atol=0, check_dtype=False
        )


def test_steps_and_projection_by_hand():
    """Gradients (3, 4), then (1, 0): a step of 1 each from nothing, and back to the ball of 1.2."""
    grads = [torch.tensor([[3.0, 4.0]]), torch.tensor([[7.0, 0.0]])]
    asked = []

    def gradient(deltas):
        asked.append(deltas[0].clone())
        return [grads[len(asked) - 1]]

    found = pgd([torch.zeros(1, 2)], gradient, [1.2], [1.0], num_steps=2, norms=[L2()]).deltas[0]
    torch.testing.assert_close(asked[1], torch.tensor([[0.6, 0.8]]))
    length = math.hypot(1.6, 0.8)
    torch.testing.assert_close(found, torch.tensor([[1.6, 0.8]]) * 1.2 / length)


def test_each_position_steps_by_itself():
    """Positions (3, 4), (0, 0) and (0, -2): unit vectors, and one that is not moved; the sample as
    a whole has a gradient of length sqrt(29).
    """
    grad = torch.tensor([[[3.0, 0.0, 0.0], [4.0, 0.0, -2.0]]])
    feature = torch.ones(1, 2, 3)
    torch.testing.assert_close(
        perturb(feature, grad, epsilon=0.5, norm_over='position'),
        torch.tensor([[[0.3, 0.0, 0.0], [0.4, 0.0, -0.5]]]),
    )
    torch.testing.assert_close(perturb(feature, grad, epsilon=0.5), 0.5 * grad / math.sqrt(29))


@pytest.mark.parametrize('over', OVER)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_units_against_numpy(shape, over):
    """One step of epsilon: along the gradient, as long as epsilon is in its unit."""
    for seed in range(3):
        feature, grad = normal(shape, seed) + 1, normal(shape, seed + 10)
        channels = np.moveaxis(feature.numpy(), 1, -1).reshape(-1, shape[1])
        std = channels.std(0).reshape(1, -1, *[1] * (len(shape) - 2))
        lengths = dict(
            absolute=1.0,
            norm=numpy_length(feature, over),
            std=numpy_length(np.broadcast_to(std, shape), over),
        )
        for unit, length in lengths.items():
            delta = perturb(
                feature, grad, 0.5, epsilon=0.3, epsilon_unit=unit, norm_over=over, step_size=0.9
            )
            expected = grad.numpy() / numpy_length(grad, over) * 0.15 * length
            np.testing.assert_allclose(delta.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_std_adds_the_energy_that_it_adds_in_the_other_norm():
    feature, grad = (
        normal((4, 3, 5, 5)) * torch.tensor([0.1, 1.0, 7.0]).view(3, 1, 1),
        normal((4, 3, 5, 5), 1),
    )
    for over in OVER:
        l2 = perturb(feature, grad, epsilon=0.2, epsilon_unit='std', norm_over=over)
        linf = perturb(feature, grad, epsilon=0.2, epsilon_unit='std', norm='linf')
        torch.testing.assert_close(l2_norm(l2, over), l2_norm(linf, over))


def test_a_vector_is_its_own_position():
    """Of a RoI vector, and of a 1x1 map."""
    for shape in ((6, 5), (6, 5, 1, 1)):
        feature, grad = normal(shape), normal(shape, 1)
        settings = dict(
            epsilon=0.3, epsilon_unit='norm', num_steps=3, random_start=True, step_size=0.2
        )
        sample, position = (perturb(feature, grad, norm_over=over, **settings) for over in OVER)
        torch.testing.assert_close(sample, position, rtol=1e-12, atol=0)


def test_samples_without_a_feature_or_a_gradient_are_not_moved():
    """In units of its norm a zero feature has no perturbation; a zero gradient has none at all."""
    feature, grad = normal((3, 4, 2, 2)), normal((3, 4, 2, 2), 1)
    feature[0], grad[1] = 0, 0
    for over in OVER:
        delta = perturb(
            feature, grad, epsilon=0.5, epsilon_unit='norm', norm_over=over, num_steps=2
        )
        assert not delta[:2].any() and delta[2].all()
    assert perturb(feature, grad, epsilon=0.5)[0].all()
    none = perturb([feature, feature], [None, grad], epsilon=0.5)
    assert not none[0].any() and none[1].any()


def test_no_rois():
    empty = torch.zeros(0, 5)
    for settings in (dict(), dict(random_start=True), dict(perturbation='gaussian')):
        delta = perturb(empty, empty, epsilon_unit='norm', epsilon=0.1, **settings)
        assert delta.shape == (0, 5)


def test_each_level_is_a_set_of_its_own():
    features, grads = (
        [normal((2, 3, 4, 4)), normal((2, 3, 2, 2), 1)],
        [
            normal((2, 3, 4, 4), 2),
            normal((2, 3, 2, 2), 3),
        ],
    )
    settings = dict(epsilon=0.1, epsilon_unit='norm')
    both = perturb(features, grads, **settings)
    for level in range(2):
        assert torch.equal(both[level], perturb(features[level], grads[level], **settings))


@pytest.mark.parametrize('random_start', (False, True))
@pytest.mark.parametrize('over', OVER)
def test_the_ball_is_never_left(over, random_start):
    """At any step; and an attack with the steps for it arrives at the surface."""
    for seed, shape in enumerate(SHAPES):
        feature, radius = normal(shape, seed), 0.7
        asked = []

        def gradient(deltas, shape=shape, asked=asked):
            asked.append(deltas[0].clone())
            return [normal(shape, len(asked) % 3)]

        found = pgd(
            [feature],
            gradient,
            [radius],
            [0.5],
            num_steps=8,
            random_start=random_start,
            generator=generator(seed),
            norms=[L2(over)],
        ).deltas[0]
        for delta in (*asked, found):
            assert (l2_norm(delta, over) <= radius * (1 + 1e-12)).all()
        ahead = pgd(
            [feature], lambda deltas, s=shape: [normal(s, 5)], [radius], [0.5], 2, norms=[L2(over)]
        )
        torch.testing.assert_close(
            l2_norm(ahead.deltas[0], over), torch.full_like(l2_norm(feature, over), radius)
        )


def test_bounds_only_shrink_the_perturbation():
    """An image at 0, 5 and 10 in [0, 10], pushed up and down."""
    feature = torch.tensor([[0.0, 5.0, 10.0]])
    grad = torch.tensor([[-1.0, 1.0, -1.0]])
    found = pgd([feature], lambda d: [grad], [3.0], [3.0], bounds=[(0.0, 10.0)], norms=[L2()])
    torch.testing.assert_close(found.deltas[0], torch.tensor([[0.0, 1.0, -1.0]]) * math.sqrt(3))


@pytest.mark.parametrize('shape, dimensions', (((20000, 3), 3), ((200, 2, 10, 10), 2)))
def test_random_start_is_uniform_in_the_ball(shape, dimensions):
    """The d-th power of the radius is uniform in [0, 1], and no direction is preferred; 20,000
    draws know the quantiles of the one to 0.01 and the mean of the other to 0.02.
    """
    over = 'position' if len(shape) > 2 else 'sample'
    start = L2(over).uniform(torch.zeros(shape), generator())
    length = l2_norm(start, over)
    assert (length <= 1).all()
    power = length.flatten() ** dimensions
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert abs((power < quantile).float().mean() - quantile) < 0.015
    others = tuple(axis for axis in range(len(shape)) if axis != 1)
    assert (start.mean(others).abs() < 0.02).all()
    assert start.square().mean(others).std() < 0.01


def test_start_of_a_whole_sample_lies_near_the_surface():
    """In 75 dimensions half of the ball lies within 0.92 % of its radius."""
    start = L2().uniform(torch.zeros(4000, 3, 5, 5), generator())
    share = (l2_norm(start) > 0.5 ** (1 / 75)).float().mean()
    assert abs(share - 0.5) < 0.03


def test_norms_may_differ_by_level():
    grads = [torch.tensor([[3.0, -4.0]]), torch.tensor([[3.0, -4.0]])]
    deltas, _ = pgd(
        [torch.zeros(1, 2)] * 2, lambda d: grads, [1.0, 1.0], [1.0, 1.0], norms=[Linf(), L2()]
    )
    torch.testing.assert_close(deltas[0], torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(deltas[1], torch.tensor([[0.6, -0.8]]))


@pytest.mark.parametrize('bad', (float('nan'), float('inf')))
@pytest.mark.parametrize('perturbation', ('gradient', 'gradient+gaussian'))
def test_non_finite_gradient_ends_in_no_perturbation(perturbation, bad):
    """Of the other samples and of the noise, too."""
    grad = torch.ones(2, 3)
    grad[0, 1] = bad
    found = augment.perturb(
        AFANSettings(norm='l2', perturbation=perturbation),
        [torch.ones(2, 3)],
        lambda deltas: [grad],
        [grad],
        1.0,
        generator(),
    )
    assert not bool(found.finite) and torch.equal(found.deltas[0], torch.zeros(2, 3))


@pytest.mark.parametrize('over', OVER)
def test_noise_has_length_epsilon(over):
    """In a direction drawn from the given generator, that of the plain noise."""
    feature = normal((4, 3, 5, 5))
    noise = perturb(
        feature, None, epsilon=0.3, epsilon_unit='norm', norm_over=over, perturbation='gaussian'
    )
    torch.testing.assert_close(l2_norm(noise, over), 0.3 * l2_norm(feature, over))
    plain = perturb(feature, None, epsilon=1.0, norm='linf', perturbation='gaussian')
    torch.testing.assert_close(noise, plain / l2_norm(plain, over) * 0.3 * l2_norm(feature, over))


@pytest.mark.parametrize('norm', ('linf', 'l2'))
@pytest.mark.parametrize('noise_epsilon, size', ((None, 0.3), (0.8, 0.8), (0.0, 0.0)))
def test_gradient_and_noise_add_up(noise_epsilon, size, norm):
    feature, grad = normal((4, 3, 5, 5)), normal((4, 3, 5, 5), 1)
    settings = dict(norm=norm, epsilon_unit='std', num_steps=2, step_size=0.2)
    both = perturb(
        feature,
        grad,
        0.5,
        epsilon=0.3,
        perturbation='gradient+gaussian',
        noise_epsilon=noise_epsilon,
        **settings,
    )
    gradient = perturb(feature, grad, 0.5, epsilon=0.3, **settings)
    noise = perturb(feature, grad, 0.5, epsilon=size, perturbation='gaussian', **settings)
    assert gradient.any() and noise.any() == (size > 0)
    torch.testing.assert_close(both, gradient + noise)


def test_levels_of_several_sites_together():
    """Each level has the settings of its site; the gradient is asked for once, at all deltas."""
    near = AFANSettings(epsilon=0.5, norm='l2', num_steps=2, step_size=0.25)
    far = AFANSettings(epsilon=0.1, num_steps=2, step_size=0.1)
    features, first = [torch.ones(1, 2)] * 2, [torch.tensor([[3.0, 4.0]])] * 2
    asked = []

    def gradient(deltas):
        asked.append([d.clone() for d in deltas])
        return [torch.tensor([[3.0, 4.0]]), torch.tensor([[-1.0, 1.0]])]

    deltas, finite = augment.perturb([near, far], features, gradient, first, 1.0, generator())
    torch.testing.assert_close(asked, [[torch.tensor([[0.15, 0.2]]), torch.tensor([[0.1, 0.1]])]])
    torch.testing.assert_close(deltas, [torch.tensor([[0.3, 0.4]]), torch.tensor([[0.0, 0.1]])])
    assert bool(finite)


@pytest.mark.parametrize(
    'key, values',
    (
        ('perturbation', ('gaussian', 'none')),
        ('num_steps', (1, 2)),
        ('random_start', (False, True)),
    ),
)
def test_sites_perturbed_together_share_their_method(key, values):
    settings = [AFANSettings(**{key: value}) for value in values]
    features = [torch.ones(1, 2)] * 2
    with pytest.raises(ValueError, match=f'{key} must be the same at sites .* but got'):
        augment.perturb(settings, features, lambda d: features, features, 1.0, generator())


@pytest.mark.parametrize(
    'settings, shown',
    (
        (dict(), '0.1'),
        (dict(epsilon_unit='std'), '0.1 std'),
        (dict(norm='l2'), '0.1 (l2 per sample)'),
        (dict(norm='l2', epsilon_unit='std'), '0.1 std (l2 per sample)'),
        (
            dict(norm='l2', epsilon_unit='norm', norm_over='position'),
            '0.1 of the norm (l2 per position)',
        ),
    ),
    ids=str,
)
def test_table_of_sites_names_unit_and_norm(settings, shown):
    table = site_table([('neck', AFANSettings(epsilon=0.1, **settings))])
    rows = [[cell.strip() for cell in row.split('│')] for row in table.splitlines() if '│' in row]
    assert ' '.join(row[3] for row in rows if row[3]) == shown
