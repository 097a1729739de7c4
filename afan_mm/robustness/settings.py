"""The settings of an attack on the pixels, and the paper's two protocols."""

from dataclasses import dataclass, fields
from typing import Any

from mmengine.model import BaseTTAModel
from torch import nn

from ..utils.checks import check_choice, check_integer, check_number, check_type, read_quotient
from ..utils.errors import UsageError

ATTACKS = ('pgd', 'segpgd', 'cospgd', 'autoattack')
# The paper's evaluation: PGD-10, with the strengths of Sec. 5 (Table 6) for detectors and Sec. 6
# (Table 8) for segmentors. Its text gives none for classifiers: theirs are the usual ones on CIFAR
# (Madry et al. 2018).
PROTOCOLS = {
    'mmdet': dict(attack='pgd', num_steps=10, step_size=0.3 / 255, epsilon=2 / 255),
    'mmseg': dict(attack='pgd', num_steps=10, step_size=1 / 255, epsilon=8 / 255),
    'mmpretrain': dict(attack='pgd', num_steps=10, step_size=2 / 255, epsilon=8 / 255),
}
ATTACKS_OF = {
    'mmdet': ('pgd',),
    'mmseg': ('pgd', 'segpgd', 'cospgd'),
    'mmpretrain': ('pgd', 'autoattack'),
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
            cross-entropy. For classifiers also 'autoattack', see
            :func:`~afan_mm.robustness.auto_attack.auto_attack`, of which ``epsilon`` and ``seed``
            alone are settings. Defaults to 'pgd'.
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
        check_integer('num_steps', self.num_steps, 1)
        check_integer('seed', self.seed, 0)
        check_type('random_start', self.random_start, bool)
        check_choice('attack', self.attack, ATTACKS)

    @classmethod
    def for_library(cls, library: str, **changes: Any) -> 'AttackSettings':
        """The paper's protocol for a library, with changes.

        Args:
            library: 'mmdet', 'mmseg' or 'mmpretrain'.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise AttackError(
                f'the robust evaluation has no setting {unknown}; its attack knows {known}'
            )
        settings = cls(**{**PROTOCOLS[library], **changes})
        allowed = ATTACKS_OF[library]
        if settings.attack not in allowed:
            kind = dict(
                mmdet='a detector, which has no classes of pixels',
                mmseg='a segmentor',
                mmpretrain='a classifier, which has no classes of pixels',
            )[library]
            raise AttackError(
                f'attack must be one of {allowed} for {kind}, but got {settings.attack!r}'
            )
        return settings

    def __str__(self) -> str:
        strengths = f'step {self.step_size * 255:g}/255, epsilon {self.epsilon * 255:g}/255'
        start = ', random start' if self.random_start else ''
        if self.attack == 'autoattack':
            return f'AutoAttack, standard, epsilon {self.epsilon * 255:g}/255'
        return f'{self.attack.upper()}-{self.num_steps}, {strengths}{start}'


def library_of(model: nn.Module) -> str:
    """The library of a model: 'mmdet', 'mmseg' or 'mmpretrain'."""
    if isinstance(model, BaseTTAModel):
        raise AttackError('the robust evaluation does not work with test-time augmentation')
    if any(cls.__name__ == 'BaseMOTModel' for cls in type(model).__mro__):
        raise AttackError(
            'the robust evaluation perturbs images one by one, but got '
            f'{type(model).__name__}, which follows objects through clips'
        )
    for cls in type(model).__mro__:
        library = cls.__module__.split('.')[0]
        if library in PROTOCOLS:
            return library
    raise AttackError(
        'the robust evaluation needs a detector of mmdet, a segmentor of mmseg or a classifier of '
        'mmpretrain, but got '
        f'{type(model).__name__}'
    )


def _read_fraction(key: str, value: Any) -> float:
    try:
        return float(check_number(key, read_quotient(key, value), 0, 1))
    except (TypeError, ValueError) as error:
        raise type(error)(f'{error}: 8 grey levels are 8/255') from None
