"""The perturbed features that a site's settings define."""

from typing import Iterable, List, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from .attack import Bounds, Gradient, Perturbation, pgd
from .functional import draw_strengths, full_precision, inject_moments
from .norms import L2, Linf, Radius, l2_norm, vectors_along
from .settings import AFANSettings


class Strength(NamedTuple):
    """How strongly one adversarial pass perturbs.

    Attributes:
        value: In units of epsilon; a number, or one for each sample, (N,).
        weight: Of the pass in the sum over the strengths.
        normalized: Whether the pass trains on f_mix (Eq. 5) or on f_adv itself.
    """

    value: Union[float, Tensor]
    weight: float = 1.0
    normalized: bool = True


def draw(
    settings: AFANSettings, generator: torch.Generator, num_samples: int, device: torch.device
) -> List[Strength]:
    """The adversarial passes of one step.

    Args:
        settings: Those of the site.
        generator: A CPU generator.
        num_samples: N, for ``estimator='per_sample'``.
        device: Where strengths for each sample go.
    """
    k = settings.num_strengths
    normalized = settings.normalized or (True,) * k
    if settings.estimator == 'per_sample':
        values = draw_strengths(k, settings.strengths, generator, num_samples)
        # Without waiting: the copy is ordered before whatever reads it.
        return [Strength(values.to(device, non_blocking=True), k, normalized[0])]
    passes = [
        Strength(*each)
        for each in zip(
            draw_strengths(k, settings.strengths, generator).tolist(), (1.0,) * k, normalized
        )
    ]
    if settings.estimator == 'single':
        return [passes[int(torch.randint(k, (), generator=generator))]._replace(weight=k)]
    return passes


def perturb(
    settings: Union[AFANSettings, Sequence[AFANSettings]],
    features: Sequence[Tensor],
    gradient: Gradient,
    clean_gradient: Iterable[Optional[Tensor]],
    scale: float,
    generator: torch.Generator,
    pixels: Optional[Bounds] = None,
    units: Optional[Sequence[Optional[Radius]]] = None,
) -> Perturbation:
    """The perturbation at full strength.

    Args:
        settings: Those of the site, or of each level where the levels of several sites are
            perturbed together; these have one ``perturbation``, ``num_steps`` and ``random_start``.
        features: The clean levels, each (N, C, *S), detached.
        gradient: See :func:`~afan_mm.attack.pgd`.
        clean_gradient: The clean loss's gradient at each level, None where it does not read the
            level; see :func:`~afan_mm.attack.pgd`.
        scale: Factor on epsilon, step_size and noise_epsilon, for warming up.
        generator: On the features' device.
        pixels: What black and white are in an image, each (C, 1, 1); for
            ``epsilon_unit='pixel'``. Defaults to None.
        units: Of each level the :func:`unit`, where it is known: the values of its feature are then
            not read. Defaults to None, of none.
    """
    each = [settings] * len(features) if isinstance(settings, AFANSettings) else settings
    method = _method(each)
    units = [
        (unit(s, f, pixels) if known is None else known) * scale
        for s, f, known in zip(each, features, units or [None] * len(features))
    ]
    if method.follows_gradient:
        deltas, finite = pgd(
            features,
            gradient,
            [s.epsilon * u for s, u in zip(each, units)],
            [_default(s.step_size, s.epsilon) * u for s, u in zip(each, units)],
            method.num_steps,
            method.random_start,
            None if method.random_start else clean_gradient,
            generator,
            bounds=[pixels if s.epsilon_unit == 'pixel' else None for s in each],
            norms=[Linf() if s.norm == 'linf' else L2(s.norm_over) for s in each],
        )
    else:
        deltas = [torch.zeros_like(full_precision(f)) for f in features]
        finite = torch.ones((), dtype=torch.bool, device=features[0].device)
    if method.adds_noise:
        sizes = [_default(s.noise_epsilon, s.epsilon) * u for s, u in zip(each, units)]
        deltas = [
            torch.where(finite, d + size * _noise(s, d, generator), d)
            for s, d, size in zip(each, deltas, sizes)
        ]
    return Perturbation(deltas, finite)


def moments_of(settings: AFANSettings, strength: Strength) -> Optional[str]:
    """Which moments a pass of this strength puts on the clean feature (Eq. 5); None for none, where
    it trains on the perturbed feature itself.
    """
    return settings.moments if strength.normalized else None


def mix(settings: AFANSettings, clean: Tensor, delta: Tensor, strength: Strength) -> Tensor:
    """The feature of one level that an adversarial pass trains on; differentiable in ``clean``, and
    in its precision.
    """
    mixed = inject_moments(
        full_precision(clean),
        delta,
        strength.value,
        moments_of(settings, strength),
        settings.num_groups,
        settings.eps,
        settings.unbiased,
    )
    return mixed.to(clean.dtype)


def _method(settings: Sequence[AFANSettings]) -> AFANSettings:
    """The settings that levels perturbed together must share, as the first of them has them."""
    for key in ('perturbation', 'num_steps', 'random_start'):
        values = {getattr(s, key) for s in settings}
        if len(values) > 1:
            raise ValueError(
                f'{key} must be the same at sites that are perturbed together, but got '
                f'{sorted(values)}'
            )
    return settings[0]


def unit(settings: AFANSettings, feature: Tensor, pixels: Optional[Bounds] = None) -> Radius:
    """What epsilon is measured in: a number, or a tensor that broadcasts against the feature.

    Args:
        settings: Those of the site.
        feature: A clean level.
        pixels: See :func:`perturb`. Defaults to None.
    """
    if settings.epsilon_unit == 'absolute':
        return 1.0
    if settings.epsilon_unit == 'pixel':
        black, white = pixels
        return white - black
    if settings.epsilon_unit == 'norm':
        return l2_norm(feature, settings.norm_over)
    feature = full_precision(feature)
    # torch's own variance of a constant channel is nothing, to the bit
    std = feature.var((0, *range(2, feature.dim())), unbiased=False, keepdim=True).sqrt()
    if settings.norm == 'linf':
        return std
    return l2_norm(std.expand(1, *feature.shape[1:]), settings.norm_over)


def _noise(settings: AFANSettings, like: Tensor, generator: Optional[torch.Generator]) -> Tensor:
    """Gaussian noise of standard deviation one, or at an l2 norm of one."""
    noise = torch.zeros_like(like).normal_(generator=generator)
    return noise if settings.norm == 'linf' else vectors_along(noise, settings.norm_over)


def _default(value: Optional[float], default: float) -> float:
    return default if value is None else value
