"""PGD (Eq. 2) on losses whose answer is known."""

import pytest
import torch

from afan_mm.attack import pgd


def random_tensors(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


class Gradient:
    """Gradient of a loss of all levels, with the levels it was asked at."""

    def __init__(self, loss):
        self.loss = loss
        self.asked = []

    def __call__(self, levels):
        self.asked.append([level.clone() for level in levels])
        levels = [level.detach().requires_grad_() for level in levels]
        return torch.autograd.grad(self.loss(levels), levels, allow_unused=True)


def linear(*weights):
    return Gradient(lambda levels: sum((w * f).sum() for w, f in zip(weights, levels)))


def attack(features, gradient, *args, **kwargs):
    """pgd with a gradient that is asked at the perturbed levels."""

    def of_deltas(deltas):
        return gradient([f + d for f, d in zip(features, deltas)])

    return pgd(features, of_deltas, *args, **kwargs)


def test_one_step_from_zero_is_step_times_sign():
    for seed in range(5):
        feature, weight = random_tensors(seed, (2, 3, 4, 4), (2, 3, 4, 4))
        found = attack([feature], linear(weight), [0.3], [0.2])
        torch.testing.assert_close(found.deltas[0], 0.2 * weight.sign(), rtol=0, atol=0)
        assert bool(found.finite)


@pytest.mark.parametrize('random_start', (False, True))
def test_linear_loss_is_maximised_at_the_corner_of_the_ball(random_start):
    for seed in range(5):
        feature, weight = random_tensors(seed, (2, 5), (2, 5))
        gradient = linear(weight)
        found = attack(
            [feature],
            gradient,
            [0.3],
            [0.1],
            num_steps=7,
            random_start=random_start,
            generator=torch.Generator().manual_seed(seed),
        )
        torch.testing.assert_close(found.deltas[0], 0.3 * weight.sign())
        assert len(gradient.asked) == 7


def test_steps_by_hand_with_projection():
    """Ascent on f^2 from 1 moves up by 0.2, 0.2 and what the ball leaves; from 0 it stays."""
    gradient = Gradient(lambda levels: levels[0].square().sum())
    found = attack([torch.tensor([1.0, -1.0, 0.0])], gradient, [0.5], [0.2], num_steps=3)
    torch.testing.assert_close(found.deltas[0], torch.tensor([0.5, -0.5, 0.0]))
    asked = torch.stack([levels[0] for levels in gradient.asked])
    torch.testing.assert_close(
        asked, torch.tensor([[1.0, -1.0, 0.0], [1.2, -1.2, 0.0], [1.4, -1.4, 0.0]])
    )


def test_a_step_longer_than_the_radius_is_projected():
    feature, weight = random_tensors(0, (3, 4), (3, 4))
    torch.testing.assert_close(
        attack([feature], linear(weight), [0.1], [5.0]).deltas[0], 0.1 * weight.sign()
    )


def test_radius_and_step_for_each_channel():
    feature, weight = random_tensors(0, (2, 3, 4, 4), (2, 3, 4, 4))
    radius = torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64).view(1, 3, 1, 1)
    found = attack([feature], linear(weight), [radius], [radius / 2], num_steps=5).deltas[0]
    torch.testing.assert_close(found, radius * weight.sign())
    started = attack(
        [feature], lambda levels: [None], [radius], [radius], random_start=True
    ).deltas[0]
    assert (started.abs() <= radius).all() and (started[:, 1:] != 0).all()


def test_levels_of_different_shapes_and_radii():
    """Each level goes by its own gradient, radius and step; one the loss does not read, and one of
    zero gradient, stay.
    """
    features = random_tensors(0, (2, 3, 4, 4), (2, 5), (2, 3), (2, 2))
    weight, vector = random_tensors(1, (2, 3, 4, 4), (2, 5))
    gradient = Gradient(
        lambda levels: (weight * levels[0]).sum() + (vector * levels[1]).sum() + 0 * levels[3].sum()
    )
    deltas, finite = attack(
        features, gradient, [0.3, 0.6, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2], num_steps=2
    )
    torch.testing.assert_close(deltas[0], 0.3 * weight.sign())
    torch.testing.assert_close(deltas[1], 0.4 * vector.sign())
    assert not deltas[2].any() and not deltas[3].any() and bool(finite)


def test_given_first_gradient_replaces_the_first_call():
    """The rest of the attack is asked at where that gradient led."""
    feature, first, weight = random_tensors(0, (2, 4), (2, 4), (2, 4))
    gradient = linear(weight)
    found = attack([feature], gradient, [1.0], [0.25], num_steps=2, first_gradient=[first])
    torch.testing.assert_close(found.deltas[0], 0.25 * first.sign() + 0.25 * weight.sign())
    assert len(gradient.asked) == 1
    torch.testing.assert_close(gradient.asked[0][0], feature + 0.25 * first.sign())


def test_random_start_lies_in_the_ball_and_asks_for_every_gradient():
    feature, weight = (
        torch.zeros(4, 50, dtype=torch.float64),
        torch.ones(4, 50, dtype=torch.float64),
    )
    gradient = linear(weight)
    attack(
        [feature],
        gradient,
        [0.3],
        [0.1],
        random_start=True,
        generator=torch.Generator().manual_seed(0),
    )
    start = gradient.asked[0][0]
    assert len(gradient.asked) == 1 and start.abs().max() <= 0.3
    assert start.max() > 0.27 and start.min() < -0.27 and start.mean().abs() < 0.05


def test_random_start_depends_on_its_generator_alone():
    def start(seed):
        return attack(
            [torch.zeros(3, 4)],
            lambda levels: [None],
            [0.3],
            [0.1],
            random_start=True,
            generator=torch.Generator().manual_seed(seed),
        ).deltas[0]

    before = torch.get_rng_state()
    assert torch.equal(start(0), start(0)) and not torch.equal(start(0), start(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_start_does_not_take_a_first_gradient():
    with pytest.raises(ValueError, match='first_gradient must be None with random_start'):
        attack(
            [torch.zeros(2)],
            lambda levels: [None],
            [0.1],
            [0.1],
            random_start=True,
            first_gradient=[torch.ones(2)],
        )


@pytest.mark.parametrize('broken_step', (0, 1, 2))
@pytest.mark.parametrize('bad', (float('nan'), float('inf'), -float('inf')))
def test_non_finite_gradient_ends_in_no_perturbation(bad, broken_step):
    """Of any level at any step; no forward ever meets a non-finite feature, and a later good
    gradient does not bring it back.
    """
    features = random_tensors(0, (2, 3), (2, 4))
    asked = []

    def gradient(levels):
        grads = [torch.ones_like(level) for level in levels]
        if len(asked) == broken_step:
            grads[1][0, 2] = bad
        asked.append(levels)
        return grads

    deltas, finite = attack(features, gradient, [0.3, 0.3], [0.2, 0.2], num_steps=3)
    assert len(asked) == 3 and all(level.isfinite().all() for levels in asked for level in levels)
    assert not bool(finite) and finite.shape == () and finite.dtype == torch.bool
    assert all(
        torch.equal(delta, torch.zeros_like(feature)) for delta, feature in zip(deltas, features)
    )


def test_non_finite_first_gradient_given():
    deltas, finite = attack(
        [torch.zeros(3)],
        lambda levels: [torch.ones(3)],
        [0.3],
        [0.2],
        2,
        first_gradient=[torch.tensor([1.0, float('nan'), 1.0])],
    )
    assert not bool(finite) and torch.equal(deltas[0], torch.zeros(3))


def test_a_level_of_no_elements_is_finite():
    """Of a detector without RoIs."""
    features = [torch.zeros(0, 4), torch.zeros(2, 4)]
    deltas, finite = attack(features, linear(*map(torch.ones_like, features)), [0.3] * 2, [0.3] * 2)
    assert bool(finite) and deltas[0].shape == (0, 4) and (deltas[1] == 0.3).all()


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16, torch.float32))
def test_large_gradients_are_finite(dtype):
    """Their sum is not."""
    gradient = torch.full((2, 300), torch.finfo(dtype).max, dtype=dtype)
    deltas, finite = pgd([torch.zeros(2, 300)], None, [0.3], [0.3], first_gradient=[gradient])
    assert bool(finite) and (deltas[0] == 0.3).all() and not bool(gradient.sum().isfinite())


def test_features_are_not_modified():
    feature, weight = random_tensors(0, (2, 5), (2, 5))
    before, version = feature.clone(), feature._version
    attack([feature], linear(weight), [0.3], [0.2], num_steps=3, random_start=True)
    assert torch.equal(feature, before) and feature._version == version


def test_loss_rises_with_every_step_on_a_convex_quadratic():
    """Convexity gives L(b) - L(a) >= <grad L(a), b - a>, and no projected sign step goes against
    the gradient.
    """
    for seed in range(10):
        matrix, feature = random_tensors(seed, (6, 6), (6,))
        gradient = Gradient(lambda levels, matrix=matrix: (matrix @ levels[0]).square().sum())
        final = attack([feature], gradient, [0.5], [0.15], num_steps=6).deltas[0]
        losses = [gradient.loss(levels).item() for levels in gradient.asked] + [
            gradient.loss([feature + final]).item()
        ]
        assert losses[0] < losses[1] and all(a <= b + 1e-12 for a, b in zip(losses, losses[1:]))
        assert final.abs().max() <= 0.5


def test_bounds_by_hand():
    """From 1, 5 and 9 the way up by 3 is cut at 10, after each step as after the random start."""
    feature = torch.tensor([1.0, 5.0, 9.0])
    gradient = linear(torch.ones(3))
    found = attack([feature], gradient, [3.0], [2.0], num_steps=2, bounds=[(0.0, 10.0)]).deltas[0]
    torch.testing.assert_close(found, torch.tensor([3.0, 3.0, 1.0]), rtol=0, atol=0)
    torch.testing.assert_close(gradient.asked[1][0], torch.tensor([3.0, 7.0, 10.0]), rtol=0, atol=0)
    down = attack([feature], linear(-torch.ones(3)), [3.0], [3.0], bounds=[(0.0, 10.0)]).deltas[0]
    torch.testing.assert_close(down, torch.tensor([-1.0, -3.0, -3.0]), rtol=0, atol=0)


def test_random_start_within_bounds():
    feature = torch.tensor([0.0, 5.0, 10.0]).repeat(50, 1)
    start = (
        feature
        + attack(
            [feature],
            lambda levels: [None],
            [4.0],
            [1.0],
            random_start=True,
            bounds=[(0.0, 10.0)],
            generator=torch.Generator().manual_seed(0),
        ).deltas[0]
    )
    assert start.min() == 0 and start.max() == 10 and 0.3 < (start[:, 0] == 0).double().mean() < 0.7
    assert (start[:, 1] != 5).all()
