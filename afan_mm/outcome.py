"""What the passes of a step come to besides gradients: figures for the log, and the epsilon of the
next step.
"""

from functools import lru_cache
from typing import Callable, Dict, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from .health import Health
from .isolation import restored_state
from .settings import AFANSettings
from .site import Site
from .steering import Steering
from .tails import objective_of


class Outcome:
    """Of one step.

    Args:
        model: The host.
        health: Where the figures go.
        steering: Of sites with a ``target_gain``; None: epsilon is as it is.
        scale: Factor on every epsilon. Steering waits until the warm-up is over, at 1.
    """

    def __init__(
        self, model: nn.Module, health: Health, steering: Optional[Steering], scale: float
    ):
        self.model = model
        self.health = health
        self.steering = steering
        self.scale = scale
        self._gains: Dict[str, Tuple[AFANSettings, Tensor]] = {}

    def scale_of(self, site: Site) -> Union[float, Tensor]:
        """The factor on the epsilon of a site and of those joined to it."""
        if self.steering is None or site.settings.target_gain is None:
            return self.scale
        return self.scale * self.steering.factor(site.settings, site.features[0])

    def passes_over(
        self,
        site: Site,
        finite: Tensor,
        losses: Sequence[Tensor],
        clean_pass: Callable[[], Tensor],
    ) -> None:
        """The passes of a site are over.

        Args:
            site: Where they entered.
            finite: Whether the directions were; see :class:`~afan_mm.attack.Perturbation`.
            losses: Of each pass, without a graph.
            clean_pass: Runs the tail, with the norms of the passes, on the clean feature and gives
                its loss.
        """

        def clean_loss() -> Tensor:
            if site.consistency is not None:  # from itself it has no divergence
                return torch.zeros((), device=site.features[0].device)
            with torch.no_grad(), restored_state(self.model):  # no trace, whatever bn_stats
                return clean_pass()

        self._note_gain(site, finite, losses, clean_loss)
        once = lru_cache(maxsize=None)(clean_loss)
        with record_function(f'afan/{site.name}/health'):
            # of the passes of joint sites each site has figures of its own
            for each in site.group:
                self.health.add_step(each.name, finite, once)

    def needs_clean_feature(self, site: Site) -> bool:
        """Whether :meth:`passes_over` will run the tail on it."""
        return self.health.due or self._is_steered(site) and not self._knows_clean_loss(site)

    def step_over(self) -> None:
        """All passes are over: tell the controller of epsilon what they did.

        In the order of the names, the same on all ranks, which average each gain; the order of the
        passes need not be.
        """
        for name in sorted(self._gains):
            settings, gain = self._gains[name]
            self.steering.update(settings, gain)
            self.health.add_factor(name, self.steering.factor(settings, gain))
        self._gains.clear()

    def _note_gain(
        self,
        site: Site,
        finite: Tensor,
        losses: Sequence[Tensor],
        clean_loss: Callable[[], Tensor],
    ) -> None:
        """What the passes of a steered site did."""
        if not self._is_steered(site):
            return
        if self._knows_clean_loss(site):
            clean = objective_of(self.model, site.as_of_host(site.clean_losses))
        else:
            clean = clean_loss()
        gain = torch.stack(list(losses)).mean() - clean
        gain = torch.where(finite, gain, torch.full_like(gain, torch.nan))
        self._gains[site.name] = site.settings, gain

    def _is_steered(self, site: Site) -> bool:
        """Not while warming up, nor where nothing is perturbed."""
        settings = site.settings
        steered = self.steering is not None and settings.target_gain is not None
        return steered and self.scale >= 1 and settings.perturbation != 'none'

    @staticmethod
    def _knows_clean_loss(site: Site) -> bool:
        """Whether the clean pass has computed it, with the norms of the passes."""
        known = site.clean_losses is not None and site.consistency is None
        return known and site.settings.bn_stats != 'auxiliary'
