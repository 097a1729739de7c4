"""A site's tail as the host would have it: its losses, checked, and the objective they make."""

from typing import Sequence

from mmengine.model import BaseModel
from torch import Tensor, nn

from .contribution import Losses
from .site import Features, Site


def objective_of(model: nn.Module, losses: Losses) -> Tensor:
    """What a host makes of its losses: by its own ``parse_losses``, or, as a plain module has none,
    by that of mmengine's models, the sum of all whose name contains "loss".
    """
    if hasattr(model, 'parse_losses'):
        return model.parse_losses(losses)[0]
    return BaseModel.parse_losses(model, losses)[0]


def losses_of_tail(site: Site, features: Features) -> Losses:
    """What the tail of a site returns.

    Args:
        site: Where it starts.
        features: What is there, in the structure that was tapped.

    Raises:
        TypeError: If it is no dict.
    """
    if site.streams is not None:
        site.streams.restore()
    losses = site.tail(features, *site.context)
    if not isinstance(losses, dict):
        raise TypeError(
            f'the tail of A-FAN site {site.name!r} must return a dict of losses, but got '
            f'{type(losses).__name__}'
        )
    return losses


def objective_of_tail(
    model: nn.Module, site: Site, levels: Sequence[Tensor], losses: Losses
) -> Tensor:
    """The share of a tail's losses in the host's objective.

    Args:
        model: The host.
        site: Where the tail starts.
        levels: The feature there.
        losses: What the tail returned.

    Raises:
        ValueError: If there is none, but the clean pass had some.
    """
    entering = site.as_of_host(losses)
    if any('loss' in key for key in entering):
        return objective_of(model, entering)
    if site.is_read:
        raise ValueError(
            f'A-FAN site {site.name!r}: no loss depends on its feature, so there is nothing '
            f'to attack (the tail returned {sorted(losses)}). Choose another site or other '
            'levels'
        )
    return sum((0 * level).sum() for level in levels)
