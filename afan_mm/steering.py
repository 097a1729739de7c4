"""A controller in place of a chosen epsilon (``target_gain``)."""

import math
from typing import Dict, Tuple

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from .settings import AFANSettings

RATE = 0.1  # of a step's relative error, to the logarithm of the factor
LARGEST_STEP = 0.2
LARGEST_FACTOR = 1e4
LARGEST_SHARE = 0.5  # of the feature's own norm


class Steering:
    """Multiplies the epsilon of each site that has a ``target_gain``, so that its adversarial
    losses exceed the clean one by this much.

    The gain is a difference of losses, not a ratio: a ratio would shrink the perturbation with the
    training loss, just where a model begins to overfit.

    Every step moves the logarithm of a site's factor by RATE times the gain's relative error,
    ``(target - gain) / target``, at most by LARGEST_STEP, within :func:`limits`. The gain is
    averaged over the ranks, so they keep one factor; nothing waits for the device.
    """

    def __init__(self):
        self._factors: Dict[str, Tensor] = {}
        self._limits: Dict[str, Tuple[float, float]] = {}

    def factor(self, settings: AFANSettings, like: Tensor) -> Tensor:
        """The site's factor on epsilon, a 0-dim tensor on the device of another; 1 at first."""
        factor = self._factors.get(settings.name)
        if factor is None:
            factor = torch.ones((), dtype=torch.float32)
        self._factors[settings.name] = factor = factor.to(like.device, non_blocking=True)
        return factor

    @torch.no_grad()
    def update(self, settings: AFANSettings, gain: Tensor) -> None:
        """A step of a site is over.

        Args:
            settings: Those of the site.
            gain: By how much its adversarial losses exceeded the clean one, 0-dim. One that is not
                finite on any rank leaves the factor as it is.
        """
        gain = gain.detach().float().clone()
        all_reduce(gain, op='mean')
        error = (settings.target_gain - gain) / settings.target_gain
        step = (RATE * error).clamp(-LARGEST_STEP, LARGEST_STEP).nan_to_num(0.0)
        step = torch.where(gain.isfinite(), step, torch.zeros_like(step))
        self._limits[settings.name] = least, most = limits(settings)
        factor = self.factor(settings, gain)
        moved = (factor.log() + step).clamp(math.log(least), math.log(most))
        self._factors[settings.name] = moved.exp()

    def is_at_limit(self, name: str) -> bool:
        """Whether the epsilon of a site is steered no further; waits for the device."""
        if name not in self._limits:
            return False
        least, most = self._limits[name]
        return not 1.01 * least < float(self._factors[name]) < 0.99 * most

    def state_dict(self) -> Dict[str, Tensor]:
        """The factors by site, for a checkpoint."""
        return {name: factor.cpu() for name, factor in self._factors.items()}

    def load_state_dict(self, factors: Dict[str, Tensor]) -> None:
        """Go on with the factors of a checkpoint."""
        self._factors = {name: factor.float() for name, factor in factors.items()}


def limits(settings: AFANSettings) -> Tuple[float, float]:
    """The least and the largest factor on the epsilon of a site.

    Where epsilon is a share of the feature's norm, the perturbation is to be no longer than half of
    it: one as long as the feature hides it, no tail can learn from what is left, the gain is missed
    for ever and the factor grows without end. Of joint sites, which have one factor, the first is
    meant.
    """
    most = LARGEST_FACTOR
    if settings.epsilon_unit == 'norm' and settings.epsilon:
        most = min(most, max(1.0, LARGEST_SHARE / settings.epsilon))
    return 1 / LARGEST_FACTOR, most
