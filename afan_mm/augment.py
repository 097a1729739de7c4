"""The settings of one site, and the perturbed features they define."""
import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import List, Optional, Sequence

import torch
from torch import Tensor

from .attack import Gradient, Perturbation, pgd
from .functional import MOMENTS, STRENGTHS, draw_strengths, full_precision, inject_moments, moments

PERTURBATIONS = ('gradient', 'gaussian', 'none')
EPSILON_UNITS = ('absolute', 'std')
BN_STATS = ('clean', 'all')


@dataclass(frozen=True)
class AFANSettings:
    """How the feature of one site is perturbed; ``afan=dict(...)`` in a config.

    Args:
        name: What logs and errors call the site; unique in a model.
        epsilon: Radius of the perturbation, the largest strength. Defaults to 0.4/255 (segmentation on VOC2012, Sec. 6).
        epsilon_unit: 'absolute', or 'std' to measure epsilon and step_size in standard deviations of each channel over the
            batch (a constant channel is then not perturbed). Defaults to 'absolute'.
        step_size: Length of one PGD step, alpha in Eq. 2. Defaults to ``epsilon``.
        num_steps: PGD steps. One is free: its gradient is the clean backward's. Defaults to 1.
        random_start: Start PGD anywhere in the ball. Defaults to False.
        num_strengths: Adversarial passes a step, k in Eq. 4; 0 turns the site off. Defaults to 3 (Sec. 6).
        strengths: 'uniform' or 'linspace', see :func:`~afan_mm.functional.draw_strengths`. Defaults to 'uniform'.
        moments: 'batch', 'instance', 'layer', 'group', 'positional', or None for augmentation alone. Defaults to 'batch'.
        num_groups: Channel groups of ``moments='group'``. Defaults to 32.
        eps: Added to the variances of the moments. Defaults to 1e-5.
        perturbation: 'gradient'; 'gaussian' for noise of standard deviation epsilon (Table 11); 'none' to run the same
            passes on the clean feature, the control that tells the perturbation's effect from that of more gradient.
            Defaults to 'gradient'.
        adv_weight: Weight of the sum of the adversarial losses, lambda in Eq. 6. Defaults to 1.
        detach: True trains only the layers after the site on the adversarial losses (the released code), False every layer
            (Eq. 3). Defaults to False.
        bn_stats: 'clean' leaves the running statistics of batch norm to the clean pass, 'all' lets every pass update them
            (the released code). Defaults to 'clean'.

    Raises:
        TypeError, ValueError: With the argument's name, what is allowed and what came.
    """
    name: str = 'afan'
    epsilon: float = 0.4 / 255
    epsilon_unit: str = 'absolute'
    step_size: Optional[float] = None
    num_steps: int = 1
    random_start: bool = False
    num_strengths: int = 3
    strengths: str = 'uniform'
    moments: Optional[str] = 'batch'
    num_groups: int = 32
    eps: float = 1e-5
    perturbation: str = 'gradient'
    adv_weight: float = 1.0
    detach: bool = False
    bn_stats: str = 'clean'

    def __post_init__(self) -> None:
        for key in ('epsilon', 'adv_weight', 'eps') + (() if self.step_size is None else ('step_size', )):
            _check_number(key, getattr(self, key))
        if self.eps == 0:
            raise ValueError('eps must be a finite number > 0, or a constant channel is 0 / 0, but got 0')
        for key, least in (('num_steps', 1), ('num_strengths', 0), ('num_groups', 1)):
            _check_count(key, getattr(self, key), least)
        for key, allowed in (('epsilon_unit', EPSILON_UNITS), ('strengths', STRENGTHS), ('moments', MOMENTS + (None, )),
                             ('perturbation', PERTURBATIONS), ('bn_stats', BN_STATS)):
            if getattr(self, key) not in allowed:
                raise ValueError(f'{key} must be one of {allowed}, but got {getattr(self, key)!r}')
        for key, kind in (('name', str), ('random_start', bool), ('detach', bool)):
            if not isinstance(getattr(self, key), kind):
                raise TypeError(f'{key} must be a {kind.__name__}, but got {getattr(self, key)!r}')

    @classmethod
    def from_config(cls, config: dict, **defaults) -> 'AFANSettings':
        """Settings from ``afan=dict(...)``, with a message that lists the keys there are when one is unknown."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise ValueError(f'afan has no setting {unknown}; it knows {known}')
        return cls(**{**defaults, **config})

    @property
    def num_attack_passes(self) -> int:
        """Extra passes of the tail to find the direction; PGD-1 from the clean feature needs none."""
        if self.num_strengths == 0 or self.perturbation != 'gradient':
            return 0
        return self.num_steps - (0 if self.random_start else 1)

    def draw(self, generator: torch.Generator) -> List[float]:
        """The strengths of one step, in units of epsilon."""
        return draw_strengths(self.num_strengths, self.strengths, generator)

    def perturb(self, features: Sequence[Tensor], gradient: Gradient, clean_gradient: Sequence[Optional[Tensor]],
                scale: float, generator: torch.Generator) -> Perturbation:
        """The perturbation at full strength.

        Args:
            features: The clean levels, each (N, C, *S), detached.
            gradient: See :func:`~afan_mm.attack.pgd`.
            clean_gradient: The clean loss's gradient at each level, None where it does not read the level.
            scale: Factor on epsilon and step_size, for warming up.
            generator: On the features' device.
        """
        features = [full_precision(f) for f in features]
        units = [self._unit(f) * scale for f in features]
        epsilon = [self.epsilon * unit for unit in units]
        if self.perturbation == 'gradient':
            step_size = [(self.epsilon if self.step_size is None else self.step_size) * unit for unit in units]
            first = None if self.random_start else clean_gradient
            return pgd(features, gradient, epsilon, step_size, self.num_steps, self.random_start, first, generator)
        deltas = [torch.zeros_like(f) for f in features]
        if self.perturbation == 'gaussian':
            deltas = [eps * d.normal_(generator=generator) for eps, d in zip(epsilon, deltas)]
        return Perturbation(deltas, torch.ones((), dtype=torch.bool, device=features[0].device))

    def mix(self, clean: Tensor, delta: Tensor) -> Tensor:
        """f_mix of one level (Eq. 5), in the clean feature's precision; differentiable in ``clean``."""
        feature = full_precision(clean)
        return inject_moments(feature, feature + delta, self.moments, self.num_groups, self.eps).to(clean.dtype)

    def _unit(self, feature: Tensor):
        return 1.0 if self.epsilon_unit == 'absolute' else moments(feature, 'batch', eps=0.0)[1]


def _check_number(key: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f'{key} must be a number >= 0, but got {value!r}')
    if not math.isfinite(value) or value < 0:
        raise ValueError(f'{key} must be a finite number >= 0, but got {value!r}')


def _check_count(key: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{key} must be an integer >= {least}, but got {value!r}')
