"""Several sites perturbed in one adversarial pass (``joint=True``).

The sites of a model with ``joint=True`` form one group. Their directions come from the one clean
backward (with PGD-n also from n - 1 joint attack passes, n with a random start, each differentiated
with respect to all deltas). A pass then runs the tail of the site that the clean pass met first, on
its perturbed feature; when it gets to a later site, that one's own delta is added to the feature as
it is in this pass, and Eq. 5 is taken on that feature. Gradients reach the layers before the group
through the first site alone.
"""

from contextlib import contextmanager
from typing import Dict, Iterator, List, NoReturn, Sequence, Tuple

from torch import Tensor

from .changes import Change
from .settings import AFANSettings
from .site import Features, Site, Tail
from .taps import taps_go_to

SHARED = (
    'num_strengths',
    'strengths',
    'estimator',
    'interval',
    'adv_weight',
    'perturbation',
    'num_steps',
    'random_start',
    'target_gain',
    'objective',
    'detach',
    'bn_stats',
    'draws',
)


def check_group(settings: Sequence[AFANSettings]) -> None:
    """Raise where joint sites differ in a setting that belongs to their common passes.

    Args:
        settings: Those of the sites; such as are not joint, or off, are left out.
    """
    joint = [each for each in settings if each.joint and each.num_strengths]
    for key in SHARED:
        if len({getattr(each, key) for each in joint}) > 1:
            found = ', '.join(f'{getattr(each, key)!r} at {each.name!r}' for each in joint)
            raise ValueError(
                f'{key} must be the same at all A-FAN sites with joint=True, but got {found}'
            )


def units(settings: Sequence[AFANSettings]) -> List[AFANSettings]:
    """The sites that are on; of joint ones the first stands for all."""
    running = [each for each in settings if each.num_strengths]
    joint = [each for each in running if each.joint]
    return [each for each in running if not each.joint or each is joint[0]]


def needs_directions_first(settings: Sequence[AFANSettings]) -> bool:
    """Whether a step takes the directions from a backward of their own: an attached site adds to
    the gradient that a site upstream of it would take its direction from.

    Args:
        settings: Those of the sites whose passes run, see :func:`units`.
    """
    return (
        len(settings) > 1
        and any(each.within_backward for each in settings)
        and any(each.follows_gradient for each in settings)
    )


def adversarial_weight(settings: Sequence[AFANSettings]) -> float:
    """Sum of the weights of all adversarial losses in the objective (Eq. 6), on average over the
    iterations. A divergence (``objective='consistency'``) is none of them: it reads no label, and
    is zero where the feature is not perturbed.

    Args:
        settings: Those of all sites of a model.
    """
    return sum(
        each.adv_weight * each.num_strengths for each in units(settings) if each.objective == 'loss'
    )


def complement(settings: Sequence[AFANSettings]) -> float:
    """What the weights of the adversarial losses leave of one, the weight of the clean loss with
    ``clean_weight='complement'``.

    Args:
        settings: Those of all sites of a model.

    Raises:
        ValueError: If they leave nothing.
    """
    adversarial = adversarial_weight(settings)
    if adversarial >= 1:
        raise ValueError(
            "clean_weight='complement' needs adversarial losses whose weights sum to less than 1, "
            f'but adv_weight x num_strengths over the sites is {adversarial:.4g}; lower adv_weight'
        )
    return 1 - adversarial


class JointPass:
    """Takes the taps of the later sites of a group while a pass of its first site runs.

    Args:
        changes: Each later site, and what maps its feature in this pass to the perturbed one.
    """

    records = False

    def __init__(self, changes: Sequence[Tuple[Site, Change]]):
        self._waiting: Dict[str, Tuple[Site, Change]] = {
            site.name: (site, change) for site, change in changes
        }

    def wants(self, settings: AFANSettings) -> bool:
        """Whether this is a later site that the pass has not met yet."""
        return settings.name in self._waiting

    def tap(
        self,
        name: str,
        features: Features,
        tail: Tail,
        settings: AFANSettings,
        context: Sequence[Tensor],
    ) -> Features:
        """The perturbed feature; see :func:`~afan_mm.tap`."""
        site, change = self._waiting.pop(name)
        levels = Site.levels_of(features)
        shapes = [tuple(level.shape) for level in levels]
        if shapes != site.shapes:
            raise RuntimeError(
                f'A-FAN site {name!r}: its feature has the shape {shapes} in the joint adversarial '
                f'pass, but {site.shapes} in the clean pass, whose directions are not for it. A '
                'site whose tensors the host chooses anew in every pass needs joint=False'
            )
        return site.pack(change(levels))

    def check_all_met(self, first: str) -> None:
        """Raise if the tail of the group's first site, of this name, did not get to every other."""
        if self._waiting:
            raise RuntimeError(
                f'A-FAN sites {sorted(self._waiting)} have joint=True, but the adversarial pass '
                f'that enters at {first!r}, which comes first, does not reach them. Set '
                'joint=False there, or add a joint site before both'
            )


class JointBackward:
    """Takes the taps of the later sites of a group while a pass of its first site goes backward:
    layers run there again, which are checkpointed, and the perturbation is gone by then.

    Args:
        sites: Those later ones.
    """

    records = False

    def __init__(self, sites: Sequence[Site]):
        self._names = {site.name for site in sites}

    def wants(self, settings: AFANSettings) -> bool:
        """Whether this is one of them."""
        return settings.name in self._names

    def tap(self, name: str, *args) -> NoReturn:
        """Raise; see :func:`~afan_mm.tap`."""
        raise RuntimeError(
            f'A-FAN site {name!r} has joint=True and is inside activation checkpointing, which '
            'runs its layers again in the backward, where it is not perturbed. Set joint=False '
            'there, choose a site outside, or do not checkpoint these layers (with_cp=False)'
        )


@contextmanager
def perturbing(first: Site, changes: Sequence[Change]) -> Iterator[None]:
    """Inside, a pass of the group's first site runs.

    Args:
        first: That site.
        changes: What happens to the features of those joined to it.

    Raises:
        RuntimeError: If the pass did not get to all of them.
    """
    joint_pass = JointPass(list(zip(first.joined, changes)))
    with taps_go_to(joint_pass):
        yield
    joint_pass.check_all_met(first.name)
