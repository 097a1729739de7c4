"""The adversarial passes of one site: forward, backward and free, one perturbed feature at a
time.
"""

import random
from contextlib import ExitStack, contextmanager
from typing import Callable, ContextManager, Iterator, List, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from .attack import Perturbation
from .augment import Strength, draw, mix, perturb
from .functional import full_precision
from .health import Health
from .isolation import frozen_statistics, isolated_random, restored_state
from .site import Site


class SitePasses:
    """Runs the passes of a site with everything the training step shares.

    Args:
        model: The host. Its ``parse_losses`` turns a dict of losses into the objective.
        key: Names the step; strengths, noise and dropout of a site depend on it and the site's name
            alone.
        scale: Factor on every epsilon, for warming up. Defaults to 1.
        forward_context: Makes the context of a forward pass (autocast). Defaults to none.
        weigh: Maps the sum of a pass's losses to its share in the objective (gradient
            accumulation). Defaults to identity.
        scale_loss: Maps a loss to what is differentiated for a direction (AMP's loss scaling).
            Defaults to identity.
        health: Where the figures of this step go.
    """

    def __init__(
        self,
        model: nn.Module,
        key: str = '',
        scale: float = 1.0,
        forward_context: Callable[[], ContextManager] = ExitStack,
        weigh: Callable[[Tensor], Tensor] = lambda loss: loss,
        scale_loss: Callable[[Tensor], Tensor] = lambda loss: loss,
        health: Optional[Health] = None,
    ):
        self.model = model
        self.key = key
        self.scale = scale
        self.forward_context = forward_context
        self.weigh = weigh
        self.scale_loss = scale_loss
        self.health = health or Health()
        self.backward: Callable[[Tensor], None] = Tensor.backward

    def run(self, site: Site) -> None:
        """Find the direction, then one forward and backward for each strength; gradients add up in
        ``.grad``.
        """
        site.check()
        settings = site.settings
        with self._isolated(site):
            with record_function(f'afan/{site.name}/attack'):
                found = self._perturb(site)
            site.gradients = []  # as large as the feature, and of no more use
            for feature in site.features:
                feature.requires_grad_(not settings.detach)
            strengths = torch.Generator().manual_seed(self._seed(site, 'strengths'))
            for strength in draw(
                settings, strengths, len(site.features[0]), site.features[0].device
            ):
                self._adversarial_pass(site, found, strength)
            # no trace, whatever bn_stats
            with record_function(f'afan/{site.name}/health'), frozen_statistics(self.model):
                self.health.add_step(
                    site.name, found.deltas, found.finite, lambda: self._loss(site, site.features)
                )
        site.feature_gradients = [_zero_unless(found.finite, f.grad) for f in site.features]
        site.context_gradients = [_zero_unless(found.finite, c.grad) for c in site.context]
        site.release()

    def _perturb(self, site: Site) -> Perturbation:
        generator = torch.Generator(site.features[0].device).manual_seed(self._seed(site, 'noise'))
        return perturb(
            site.settings,
            site.features,
            lambda deltas: self._gradient(site, deltas),
            site.gradients,
            self.scale,
            generator,
        )

    def _adversarial_pass(self, site: Site, found: Perturbation, strength: Strength) -> None:
        """One forward and backward of the tail."""
        settings = site.settings
        with record_function(f'afan/{site.name}/mix'):
            # Computed again in the backward: cheap, and several copies of the feature less to keep
            # until then.
            mixed = [
                checkpoint(
                    mix, settings, f, d, strength, use_reentrant=False, preserve_rng_state=False
                )
                for f, d in zip(site.features, found.deltas)
            ]
        with record_function(f'afan/{site.name}/forward'):
            loss = self._loss(site, mixed)
        self.health.add_pass(site.name, loss, strength.value, site.features, mixed, found.deltas)
        # Every rank runs every pass, whatever its data: what must not count counts zero.
        counted = torch.where(found.finite, loss, torch.zeros_like(loss))
        weight = settings.adv_weight * settings.interval * strength.weight
        with record_function(f'afan/{site.name}/backward'):
            self.backward(self.weigh(weight * counted))

    def gradient_of(
        self, loss: Tensor, inputs: Sequence[Tensor], retain_graph: bool = False
    ) -> Sequence[Optional[Tensor]]:
        """``d loss / d inputs``, leaving every parameter's ``.grad`` alone."""
        try:
            return torch.autograd.grad(
                self.scale_loss(loss), inputs, retain_graph=retain_graph, allow_unused=True
            )
        except RuntimeError as error:
            if 'checkpoint' not in str(error).lower():
                raise
            raise RuntimeError(
                'A-FAN needs torch.autograd.grad here, which re-entrant activation checkpointing '
                '(with_cp=True) '
                'does not support. Either set with_cp=False, or keep to what the clean backward '
                'gives for free: '
                'num_steps=1, random_start=False, and detach=True where there are several sites'
            ) from error

    def _gradient(self, site: Site, deltas: List[Tensor]) -> Sequence[Optional[Tensor]]:
        """The loss's gradient at perturbed levels: one attack pass."""
        levels = [
            (full_precision(f) + d).to(f.dtype).requires_grad_()
            for f, d in zip(site.features, deltas)
        ]
        return self.gradient_of(self._loss(site, levels), levels)

    def _loss(self, site: Site, levels: Sequence[Tensor]) -> Tensor:
        """The objective of the site's tail."""
        with self.forward_context():
            losses = site.tail(site.pack(levels), *site.context)
        if not isinstance(losses, dict):
            raise TypeError(
                f'the tail of A-FAN site {site.name!r} must return a dict of losses, but got '
                f'{type(losses).__name__}'
            )
        if not any('loss' in key for key in losses):
            raise ValueError(
                f'A-FAN site {site.name!r}: no loss depends on its feature, so there is nothing '
                'to attack (the tail '
                f'returned {sorted(losses)}). Choose another site or other levels'
            )
        return self.model.parse_losses(losses)[0]

    @contextmanager
    def _isolated(self, site: Site) -> Iterator[None]:
        with ExitStack() as stack:
            # a gate calls from within a backward, where gradients are off
            stack.enter_context(torch.enable_grad())
            stack.enter_context(isolated_random(self._seed(site, 'host'), site.features[0].device))
            if site.settings.bn_stats == 'clean':
                stack.enter_context(frozen_statistics(self.model))
                stack.enter_context(restored_state(self.model))
            yield

    def _seed(self, site: Site, purpose: str) -> int:
        return random.Random(f'{self.key}/{site.name}/{purpose}').getrandbits(63)


def _zero_unless(finite: Tensor, gradient: Optional[Tensor]) -> Optional[Tensor]:
    return None if gradient is None else torch.where(finite, gradient, torch.zeros_like(gradient))
