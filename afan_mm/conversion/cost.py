"""What a step of a converted config costs, from measured tail shares."""

from typing import Sequence, Tuple

from ..settings import AFANSettings


def estimated_cost(sites: Sequence[Tuple[AFANSettings, float]]) -> float:
    """Operations of a step, relative to a stock step whose every layer trains.

    Every adversarial or attack pass runs the tail of its site once more, forward and backward; one
    of joint sites, that of the first of them. (An attack pass saves the gradients of the weights,
    which is not counted.)

    Args:
        sites: Settings and tail share of each, in the order of the forward pass.
    """
    alone = [(settings, share) for settings, share in sites if not settings.joint]
    joint = [(settings, share) for settings, share in sites if settings.joint]
    return 1 + sum(
        share * (settings.num_passes + settings.num_attack_passes) / settings.interval
        for settings, share in alone + joint[:1]
    )
