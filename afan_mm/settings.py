"""The settings of one site."""

import difflib
from dataclasses import dataclass, fields
from typing import Optional, Sequence

from .functional import MOMENTS, STRENGTHS
from .norms import NORM_OVER, NORMS
from .utils.checks import check_choice, check_integer, check_number, check_type, read_quotient

PERTURBATIONS = ('gradient', 'gaussian', 'gradient+gaussian', 'none')
# each with what follows a number in it
UNIT_TEXTS = dict(absolute='', std=' std', norm=' of the norm', pixel=' of the pixel range')
EPSILON_UNITS = tuple(UNIT_TEXTS)
BN_STATS = ('clean', 'all', 'auxiliary')
DRAWS = ('own', 'clean')
OBJECTIVES = ('loss', 'consistency')
CHANNEL_AXES = (1, -1)
ESTIMATORS = ('sum', 'single', 'per_sample')

CHOICES = dict(
    epsilon_unit=EPSILON_UNITS,
    norm=NORMS,
    norm_over=NORM_OVER,
    strengths=STRENGTHS,
    estimator=ESTIMATORS,
    moments=(*MOMENTS, None),
    perturbation=PERTURBATIONS,
    bn_stats=BN_STATS,
    draws=DRAWS,
    objective=OBJECTIVES,
    channel_axis=CHANNEL_AXES,
    detach_context=(None, False, True),
)


@dataclass(frozen=True)
class AFANSettings:
    """How the feature of one site is perturbed; ``afan=dict(...)`` in a config.

    Args:
        name: What logs and errors call the site; unique in a model.
        epsilon: Radius of the perturbation, the largest strength. Defaults to 0.4/255 (segmentation
            on VOC2012, Sec. 6). A string such as '0.4/255', as typed on a command line, is read as
            that quotient, here and in step_size and noise_epsilon.
        epsilon_unit: What epsilon, step_size and noise_epsilon are measured in. 'absolute': the
            feature's own scale. 'std' (not the paper's): with ``norm='linf'`` the standard
            deviation of each channel over the batch (a constant channel is then not perturbed);
            with ``norm='l2'`` the l2 norm of a vector whose every element is one such standard
            deviation, so that equal epsilons add equal energy under both norms. 'norm' (not the
            paper's; ``norm='l2'`` only): the l2 norm of the clean feature itself, over the same
            elements (a zero vector is then not perturbed). 'pixel' (``norm='linf'`` only, at the
            image): the range of its pixels, from black to white, which the model's data
            preprocessor maps to 255/std of each channel; so 4/255 are four grey levels, and PGD's
            perturbation is clipped to what keeps each pixel in that range. Defaults to 'absolute'.
        norm: In which norm epsilon and step_size are lengths. 'linf' (Eq. 2): a step is step_size
            times the gradient's sign, and no element is perturbed by more than epsilon. 'l2' (not
            the paper's): a step is step_size times the gradient at l2 norm one, and the
            perturbation's l2 norm is at most epsilon; each level is measured by itself. Defaults
            to 'linf'.
        norm_over: What has an l2 norm of its own: 'sample', all of a sample (of a RoI, at a site of
            RoIs), or 'position', the channels of each pixel of it, see
            :func:`~afan_mm.norms.norm_axes`. The two are one where the feature is a vector.
            Without effect with ``norm='linf'``. Defaults to 'sample'.
        step_size: Length of one PGD step, alpha in Eq. 2. Defaults to ``epsilon``.
        num_steps: PGD steps. One is free: its gradient is the clean backward's. Defaults to 1.
        random_start: Start PGD anywhere in the ball. Defaults to False.
        num_strengths: k in Eq. 4; 0 turns the site off. Defaults to 3 (Sec. 6).
        strengths: 'uniform' or 'linspace', see :func:`~afan_mm.functional.draw_strengths`. Defaults
            to 'uniform'.
        estimator: How Eq. 4's sum over the strengths is taken. 'sum': all of them, one adversarial
            pass each. 'single': one pass with one of them at random, weighted by k. 'per_sample':
            one pass in which every sample has one of them at random, weighted by k. 'single' is
            unbiased; so is 'per_sample' where the tail treats samples independently (no batch norm
            in training mode), with up to N times less variance, the more the samples' gradients
            agree. Defaults to 'sum'.
        interval: Adversarial passes in every n-th iteration only, weighted by n. Defaults to 1.
        moments: 'batch', 'instance', 'layer', 'group', 'positional', or None for augmentation
            alone. Defaults to 'batch'.
        num_groups: Channel groups of ``moments='group'``. Defaults to 32.
        eps: Added to the variances of the moments. Defaults to 1e-5.
        unbiased: Divide these variances by n - 1 (the released code). Defaults to False.
        normalized: Which of the strengths are normalised, k booleans; the others train on f_adv
            itself (the released code). Defaults to None, all (Eq. 5).
        perturbation: 'gradient'; 'gaussian' for noise of standard deviation epsilon (Table 11),
            with ``norm='l2'`` in a random direction and of l2 norm epsilon (not the paper's);
            'gradient+gaussian' for the sum of the two (not the paper's), which may leave the ball;
            'none' to run the same passes on the clean feature, the control that tells the
            perturbation's effect from that of more gradient. Defaults to 'gradient'.
        noise_epsilon: Size of the noise of ``perturbation='gradient+gaussian'``, in the unit and
            norm of epsilon. Defaults to None, as ``epsilon``.
        adv_weight: Weight of the sum of the adversarial losses, lambda in Eq. 6. Defaults to 1.
        detach: True trains only the layers after the site on the adversarial losses (the released
            code), False every layer (Eq. 3). Defaults to False.
        detach_context: The same for the layers that reach the tail past the site, such as the
            low-level feature of DeepLabV3+, which the released code does not detach. Defaults to
            None, as ``detach``.
        target_gain: By how much the adversarial losses should exceed the clean loss of the same
            tail (in units of the loss, such as nats); epsilon, step_size and noise_epsilon are then
            multiplied by a factor that is steered there, with ``epsilon_unit='norm'`` up to half of
            the feature's norm, see :class:`afan_mm.steering.Steering` (not the paper's). With
            ``objective='consistency'`` it is the divergence that is steered there. Defaults to
            None, epsilon as it is.
        joint: Whether the site is perturbed in one adversarial pass together with all others of
            the model that say so, see :mod:`afan_mm.joint` (not the paper's). Defaults to False, in
            passes of its own.
        bn_stats: 'clean' leaves the running statistics of batch norm, and whatever else the host
            counts or averages, to the clean pass; 'all' lets every pass update them (the released
            code). 'auxiliary' is 'clean' for the host, with batch norms of their own, affine
            parameters included, for the attack and adversarial passes (AdvProp's, not the paper's),
            see :mod:`afan_mm.auxiliary_norms`; a direction from the clean backward (``num_steps=1``
            without ``random_start``) is still the main norms'. Defaults to 'clean'.
        draws: Of the dropout masks, samples and whatever else the tail draws at random: 'own' lets
            every adversarial pass draw anew, 'clean' lets it repeat the clean pass's, so that the
            two differ by the perturbation alone (where the tail draws in the clean pass's order;
            the control with weights that sum to one is then stock). Defaults to 'own'.
        objective: What an adversarial pass trains on. 'loss': the host's loss on the labels.
            'consistency' (not the paper's, but that of VAT and TRADES): KL(clean prediction ||
            perturbed prediction) in place of each softmax cross entropy of the tail, with the
            weights and the mean that the host has there, and of nothing else in the tail, see
            :mod:`afan_mm.consistency`. The clean prediction gets no gradient. At the clean feature
            the divergence has no gradient either: the first direction (``num_steps=1`` without
            ``random_start``) is that of the clean loss; every further step of PGD, or all with
            ``random_start``, ascends the divergence. Defaults to 'loss'.
        channel_axis: Where the feature has its channels: 1 for (N, C, *S), as convolutions have
            it, or -1 for (N, *S, C), such as the tokens (N, L, C) between the layers of a vision
            transformer. The ``position`` of an l2 norm, the unit 'std' and the moments go by it.
            Defaults to 1.

    Raises:
        TypeError, ValueError: With the argument's name, what is allowed and what came.
    """

    name: str = 'afan'
    epsilon: float = 0.4 / 255
    epsilon_unit: str = 'absolute'
    norm: str = 'linf'
    norm_over: str = 'sample'
    step_size: Optional[float] = None
    num_steps: int = 1
    random_start: bool = False
    num_strengths: int = 3
    strengths: str = 'uniform'
    estimator: str = 'sum'
    interval: int = 1
    moments: Optional[str] = 'batch'
    num_groups: int = 32
    eps: float = 1e-5
    unbiased: bool = False
    normalized: Optional[Sequence[bool]] = None
    perturbation: str = 'gradient'
    noise_epsilon: Optional[float] = None
    adv_weight: float = 1.0
    detach: bool = False
    detach_context: Optional[bool] = None
    target_gain: Optional[float] = None
    joint: bool = False
    bn_stats: str = 'clean'
    draws: str = 'own'
    objective: str = 'loss'
    channel_axis: int = 1

    def __post_init__(self) -> None:
        for key in ('epsilon', 'step_size', 'noise_epsilon'):
            object.__setattr__(self, key, read_quotient(key, getattr(self, key)))
        for key in ('epsilon', 'adv_weight', 'step_size', 'noise_epsilon'):
            if key not in ('step_size', 'noise_epsilon') or getattr(self, key) is not None:
                check_number(key, getattr(self, key))
        check_number('eps', self.eps, above=True)  # or a constant channel is 0 / 0
        if self.target_gain is not None:  # the control is perturbation='none'
            check_number('target_gain', self.target_gain, above=True)
        check_integer('num_strengths', self.num_strengths, 0)
        for key in ('num_steps', 'interval', 'num_groups'):
            check_integer(key, getattr(self, key), 1)
        for key, allowed in CHOICES.items():
            check_choice(key, getattr(self, key), allowed)
        check_type('name', self.name, str)
        for key in ('random_start', 'unbiased', 'detach', 'joint'):
            check_type(key, getattr(self, key), bool)
        self._check_size()
        self._check_normalized()

    def _check_size(self) -> None:
        if self.epsilon_unit == 'norm' and self.norm == 'linf':
            raise ValueError(
                "epsilon_unit must be 'absolute', 'std' or, at the image, 'pixel' with "
                "norm='linf', which limits each element (write norm='l2' as well), but got 'norm'"
            )
        if self.epsilon_unit == 'pixel' and self.norm != 'linf':
            raise ValueError(
                "epsilon_unit must be 'absolute', 'std' or 'norm' with norm='l2' (channels of an "
                "image have scales of their own), but got 'pixel'"
            )
        if self.noise_epsilon is not None and self.perturbation != 'gradient+gaussian':
            raise ValueError(
                f'noise_epsilon must be None with perturbation={self.perturbation!r} (the size of '
                f"pure noise is epsilon; both need 'gradient+gaussian'), but got "
                f'{self.noise_epsilon!r}'
            )

    def _check_normalized(self) -> None:
        mask, k = self.normalized, self.num_strengths
        if mask is None or k == 0:
            return
        if (
            not isinstance(mask, (list, tuple))
            or len(mask) != k
            or not all(type(m) is bool for m in mask)
        ):
            raise ValueError(
                f'normalized must be None or num_strengths={k} booleans, but got {mask!r}'
            )
        if self.estimator == 'per_sample' and len(set(mask)) > 1:
            raise ValueError(
                "normalized must be the same for all strengths with estimator='per_sample', but "
                f'got {mask!r}'
            )

    @classmethod
    def from_config(cls, config: dict, **defaults) -> 'AFANSettings':
        """Settings from ``afan=dict(...)``, with a message that lists the keys there are when one
        is unknown.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(config) - set(known), key=str)
        if unknown:
            close = [difflib.get_close_matches(str(key), known, n=1) for key in unknown]
            hint = ' or '.join(repr(match[0]) for match in close if match)
            raise ValueError(
                f'afan has no setting {unknown}; {f"did you mean {hint}? " if hint else ""}it '
                f'knows {known}'
            )
        return cls(**{**defaults, **config})

    @property
    def num_passes(self) -> int:
        """Adversarial passes of an iteration in which the site is active."""
        return self.num_strengths if self.estimator == 'sum' else min(self.num_strengths, 1)

    @property
    def unit_text(self) -> str:
        """What follows a number in the unit of epsilon."""
        return UNIT_TEXTS[self.epsilon_unit]

    @property
    def norm_text(self) -> str:
        """The norm of a perturbation, where it is not the maximum norm, else nothing."""
        return '' if self.norm == 'linf' else f'l2 per {self.norm_over}'

    @property
    def follows_gradient(self) -> bool:
        """Whether the perturbation, or a part of it, comes from PGD."""
        return self.perturbation in ('gradient', 'gradient+gaussian')

    @property
    def adds_noise(self) -> bool:
        """Whether the perturbation, or a part of it, is noise."""
        return self.perturbation in ('gaussian', 'gradient+gaussian')

    @property
    def num_attack_passes(self) -> int:
        """Extra passes of the tail to find the direction; PGD-1 from the clean feature needs
        none.
        """
        if self.num_strengths == 0 or not self.follows_gradient:
            return 0
        return self.num_steps - (0 if self.random_start else 1)

    @property
    def within_backward(self) -> bool:
        """Whether layers before the site learn from the adversarial passes, which must then run
        before these layers' backward.
        """
        return not (self.detach and self.context_detached)

    @property
    def context_detached(self) -> bool:
        return self.detach if self.detach_context is None else self.detach_context

    def active(self, iteration: int) -> bool:
        """Whether the site has adversarial passes in an iteration, counted from 0."""
        return self.num_strengths > 0 and iteration % self.interval == 0
