"""The settings of an attack on the pixels, and the paper's two protocols."""

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from ..utils.errors import UsageError

ATTACKS = ('pgd', 'segpgd', 'cospgd')
# The paper's evaluation: PGD-10, with the strengths of Sec. 5 (Table 6) for detectors and Sec. 6
# (Table 8) for segmentors.
PROTOCOLS = {
    'mmdet': dict(attack='pgd', num_steps=10, step_size=0.3 / 255, epsilon=2 / 255),
    'mmseg': dict(attack='pgd', num_steps=10, step_size=1 / 255, epsilon=8 / 255),
}


class AttackError(UsageError):
    """The config, the test set or the model does not give what an attack needs; the message is all
    that there is to say.
    """


@dataclass(frozen=True)
class AttackSettings:
    """How the pixels of an image are perturbed.

    Strengths are fractions of the pixel range, as the paper writes them: 8/255 is 8 of the 255 grey
    levels. A string such as '8/255' is read as that fraction, so that it can be written on a
    command line.

    Args:
        epsilon: Radius of the l-infinity ball.
        step_size: Length of one PGD step.
        num_steps: Number of steps; n in PGD-n. Defaults to 10.
        random_start: Start anywhere in the ball instead of at the clean image. Defaults to False.
        attack: What the steps raise, see :mod:`afan_mm.robustness.objectives`. 'pgd': the model's
            training loss. For segmentors also 'segpgd' and 'cospgd', which weight the pixels'
            cross-entropy. Defaults to 'pgd'.
        seed: With the image's name, the seed of what is drawn at random: the start, anchors and
            RoIs. Defaults to 0.

    Raises:
        TypeError, ValueError: With the argument's name, what is allowed and what came.
    """

    epsilon: float
    step_size: float
    num_steps: int = 10
    random_start: bool = False
    attack: str = 'pgd'
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ('epsilon', 'step_size'):
            object.__setattr__(self, key, _read_fraction(key, getattr(self, key)))
        for key, least in (('num_steps', 1), ('seed', 0)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'{key} must be an integer >= {least}, but got {value!r}')
        if not isinstance(self.random_start, bool):
            raise TypeError(f'random_start must be a bool, but got {self.random_start!r}')
        if self.attack not in ATTACKS:
            raise ValueError(f'attack must be one of {ATTACKS}, but got {self.attack!r}')

    @classmethod
    def for_host(cls, host: str, **changes: Any) -> 'AttackSettings':
        """The paper's protocol for a host, with changes.

        Args:
            host: 'mmdet' or 'mmseg'.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise AttackError(
                f'the robust evaluation has no setting {unknown}; its attack knows {known}'
            )
        settings = cls(**{**PROTOCOLS[host], **changes})
        if host != 'mmseg' and settings.attack != 'pgd':
            raise AttackError(
                "attack must be 'pgd' for a detector, which has no classes of pixels, but got "
                f'{settings.attack!r}'
            )
        return settings

    def __str__(self) -> str:
        strengths = f'step {self.step_size * 255:g}/255, epsilon {self.epsilon * 255:g}/255'
        start = ', random start' if self.random_start else ''
        return f'{self.attack.upper()}-{self.num_steps}, {strengths}{start}'


def _read_fraction(key: str, value: Any) -> float:
    allowed = "a number in [0, 1] or a fraction such as '8/255'"
    if isinstance(value, str):
        try:
            above, _, below = value.partition('/')
            value = float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f'{key} must be {allowed}, but got {value!r}') from None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f'{key} must be {allowed}, but got {value!r}')
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f'{key} must be {allowed}, but got {value!r}: 8 grey levels are 8/255')
    return float(value)
