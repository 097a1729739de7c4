"""What a pass of a site is: its context, its feature, its loss and its backward."""

from contextlib import ExitStack, contextmanager, nullcontext
from typing import Callable, ContextManager, Iterator, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from .attack import Perturbation
from .augment import Strength, moments_of, perturb
from .auxiliary_norms import auxiliary_norms, auxiliary_norms_run
from .changes import Change, adding, mixing
from .consistency import compare
from .draws import Draws
from .gradients import gradient_of
from .health import Health
from .isolation import isolated_random, restored_state
from .joint import JointBackward, perturbing
from .outcome import Outcome
from .pixels import pixel_bounds
from .recording import Recording
from .site import Site
from .steering import Steering
from .tails import losses_of_tail, objective_of_tail
from .taps import taps_go_to


class Passes(Recording):
    """The passes of the sites of one training step; :class:`~afan_mm.session.Session` has their
    order.

    Args:
        model: The host. Its ``parse_losses`` turns a dict of losses into the objective; a plain
            module without one has their sum.
        key: Names the step; strengths, noise and dropout of a site depend on it and the site's name
            alone. Defaults to ''.
        iteration: Number of the step, for sites that take part in some only. Defaults to 0.
        scale: Factor on every epsilon, for warming up. Defaults to 1.
        forward_context: Makes the context of a forward pass (autocast). Defaults to none.
        weigh: Maps the sum of a pass's losses to its share in the objective (gradient
            accumulation). Defaults to identity.
        scale_loss: Maps a loss to what is differentiated for a direction (AMP's loss scaling).
            Defaults to identity.
        health: Where the figures of this step go.
        steering: Of sites with a ``target_gain``. Defaults to none: epsilon is as it is.

    Attributes:
        back_propagate: Back-propagates one loss into ``.grad``.
    """

    def __init__(
        self,
        model: nn.Module,
        key: str = '',
        iteration: int = 0,
        scale: float = 1.0,
        forward_context: Callable[[], ContextManager] = ExitStack,
        weigh: Callable[[Tensor], Tensor] = lambda loss: loss,
        scale_loss: Callable[[Tensor], Tensor] = lambda loss: loss,
        health: Optional[Health] = None,
        steering: Optional[Steering] = None,
    ):
        super().__init__(model, iteration)
        self.draws = Draws(key)
        self.forward_context = forward_context
        self.weigh = weigh
        self.scale_loss = scale_loss
        self.health = health or Health()
        self.outcome = Outcome(model, self.health, steering, scale)
        self.back_propagate: Callable[[Tensor], None] = Tensor.backward

    @contextmanager
    def isolated(self, site: Site) -> Iterator[None]:
        """Whatever runs inside leaves no trace in the host but gradients."""
        with ExitStack() as stack:
            # a gate calls from within a backward, where gradients are off
            stack.enter_context(torch.enable_grad())
            stack.enter_context(taps_go_to(None))  # a host may still be in its clean pass
            stack.enter_context(
                isolated_random(self.draws.seed(site, 'host'), site.features[0].device)
            )
            kind = site.settings.bn_stats
            if kind != 'all':
                changing = auxiliary_norms(self.model) if kind == 'auxiliary' else ()
                stack.enter_context(restored_state(self.model, changing))
            yield

    def norms(self, site: Site) -> ContextManager:
        """Inside, the site's passes have the batch norms that are theirs."""
        if site.settings.bn_stats == 'auxiliary':
            return auxiliary_norms_run(self.model, site.name)
        return nullcontext()

    def direction(self, site: Site) -> Perturbation:
        """The perturbation at full strength, for the levels of all sites that its passes
        perturb.
        """
        found = perturb(
            [each.settings for each in site.group for _ in each.features],
            [feature for each in site.group for feature in each.features],
            lambda deltas: self.gradient(site, deltas),
            (gradient for each in site.group for gradient in each.handed_over()),
            self.outcome.scale_of(site),
            self.draws.noise(site),
            pixel_bounds(self.model, site),
            [unit for each in site.group for unit in each.units],
        )
        return found if site.is_read else found.void()

    def adversarial_pass(
        self,
        site: Site,
        found: Perturbation,
        strengths: Sequence[Strength],
        is_last: bool = False,
    ) -> Tensor:
        """One forward and backward of the tail; the loss, without a graph.

        Args:
            site: Where it enters.
            found: The perturbation of all sites that it perturbs.
            strengths: One for each of them.
            is_last: Whether no other pass follows: each delta is let go of once it is on its
                feature. Defaults to False.
        """
        settings = site.settings
        deltas = site.split(found.deltas)
        if is_last:
            found.deltas.clear()
        first, *later = [
            mixing(*each, self.health, is_last) for each in zip(site.group, deltas, strengths)
        ]
        is_over = is_last and not self.outcome.needs_clean_feature(site)
        if is_over and moments_of(settings, strengths[0]) is None:
            # a constant away from the clean feature, it has its gradient, and takes its place
            entered = mixed = self.enter(site, first(site.features))
            site.features = []
        else:
            entered = self.enter(site, site.features)
            mixed = first(entered)
        with record_function(f'afan/{site.name}/forward'):
            loss = self.loss(site, mixed, later)
        if is_over:
            site.tail = None  # and what it has kept of the clean pass
        for each in site.group:
            self.health.add_loss(each.name, loss)
        # Every rank runs every pass, whatever its data: what must not count counts zero.
        counted = torch.where(found.finite, loss, torch.zeros_like(loss))
        weight = settings.adv_weight * settings.interval * strengths[0].weight
        if counted.requires_grad:  # it does where the clean loss reads the site
            objective = site.carried(self.weigh(weight * counted), entered)
            del entered, mixed  # the graph lets go of each level as soon as it can
            with record_function(f'afan/{site.name}/backward'), taps_go_to(
                JointBackward(site.joined)
            ):
                self.back_propagate(objective)
        return loss.detach()

    def enter(self, site: Site, levels: Sequence[Tensor]) -> Sequence[Tensor]:
        """See :meth:`Site.enter`."""
        return site.enter(levels)

    def gradient(self, site: Site, deltas: Sequence[Tensor]) -> Sequence[Optional[Tensor]]:
        """The loss's gradient with respect to the deltas of all sites that the passes of this one
        perturb: one attack pass.
        """
        deltas = [delta.detach().requires_grad_() for delta in deltas]
        first, *later = [adding(each) for each in site.split(deltas)]
        loss = self.loss(site, first(site.features), later)
        with taps_go_to(JointBackward(site.joined)):
            return self.gradient_of(loss, deltas)

    def gradient_of(
        self, loss: Tensor, inputs: Sequence[Tensor], retain_graph: bool = False
    ) -> Sequence[Optional[Tensor]]:
        """``d loss / d inputs``, leaving every parameter's ``.grad`` alone."""
        return gradient_of(self.scale_loss(loss), inputs, retain_graph)

    def loss(self, site: Site, levels: Sequence[Tensor], later: Sequence[Change] = ()) -> Tensor:
        """The objective of the site's tail.

        Args:
            site: Where it starts.
            levels: The feature there.
            later: What happens to the features of the sites joined to it. Defaults to nothing.
        """
        with ExitStack() as stack:
            stack.enter_context(self.forward_context())
            if later:
                stack.enter_context(perturbing(site, later))
                stack.enter_context(self.shown('afan_perturbing'))
            divergences = stack.enter_context(compare(self.model, site.consistency))
            losses = losses_of_tail(site, site.pack(levels))
        objective = objective_of_tail(self.model, site, levels, losses)
        return objective if divergences is None else divergences.objective(objective)
