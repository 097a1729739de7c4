"""The perturbed features that a site's settings define."""

from typing import List, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from .attack import Gradient, Perturbation, pgd
from .functional import draw_strengths, full_precision, inject_moments
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
    settings: AFANSettings,
    features: Sequence[Tensor],
    gradient: Gradient,
    clean_gradient: Sequence[Optional[Tensor]],
    scale: float,
    generator: torch.Generator,
) -> Perturbation:
    """The perturbation at full strength.

    Args:
        settings: Those of the site.
        features: The clean levels, each (N, C, *S), detached.
        gradient: See :func:`~afan_mm.attack.pgd`.
        clean_gradient: The clean loss's gradient at each level, None where it does not read the
            level.
        scale: Factor on epsilon and step_size, for warming up.
        generator: On the features' device.
    """
    features = [full_precision(f) for f in features]
    units = [_unit(settings, f) * scale for f in features]
    epsilon = [settings.epsilon * unit for unit in units]
    if settings.perturbation == 'gradient':
        step_size = [
            (settings.epsilon if settings.step_size is None else settings.step_size) * unit
            for unit in units
        ]
        first = None if settings.random_start else clean_gradient
        return pgd(
            features,
            gradient,
            epsilon,
            step_size,
            settings.num_steps,
            settings.random_start,
            first,
            generator,
        )
    deltas = [torch.zeros_like(f) for f in features]
    if settings.perturbation == 'gaussian':
        deltas = [eps * d.normal_(generator=generator) for eps, d in zip(epsilon, deltas)]
    return Perturbation(deltas, torch.ones((), dtype=torch.bool, device=features[0].device))


def mix(settings: AFANSettings, clean: Tensor, delta: Tensor, strength: Strength) -> Tensor:
    """The feature of one level that an adversarial pass trains on; differentiable in ``clean``, and
    in its precision.
    """
    kind = settings.moments if strength.normalized else None
    mixed = inject_moments(
        full_precision(clean),
        delta,
        strength.value,
        kind,
        settings.num_groups,
        settings.eps,
        settings.unbiased,
    )
    return mixed.to(clean.dtype)


def _unit(settings: AFANSettings, feature: Tensor) -> Union[float, Tensor]:
    """What epsilon is measured in; torch's own variance of a constant channel is nothing, to the
    bit.
    """
    if settings.epsilon_unit == 'absolute':
        return 1.0
    return feature.var((0, *range(2, feature.dim())), unbiased=False, keepdim=True).sqrt()
