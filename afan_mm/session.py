"""One training step of A-FAN, in its order.

1. The host's clean forward pass: sites :func:`~afan_mm.tap` their features (:meth:`Session.tap`).
2. The clean backward: a gate at each site is handed the clean gradient (:meth:`Session.at_gate`).
3. The direction of a site, from that gradient (:meth:`Session.direction`, Eq. 2).
4. For each strength a forward and backward of the site's tail on the perturbed feature
   (:meth:`Session.adversarial_pass`, Eqs. 3 to 6). Of joint sites (:mod:`afan_mm.joint`) the first
   one's passes perturb all. The loss of the passes of 3 and 4 may be the divergence from the clean
   prediction (:mod:`afan_mm.consistency`).

5. The sum of all gradients is averaged over the ranks (end of :meth:`Session.backward`).

Gradients add up in ``.grad``. Where the layers before the site learn from steps 3 and 4, these
happen within step 2, while the clean backward waits at the gate. The optim wrapper then updates
once.
"""

from contextlib import ExitStack, contextmanager, nullcontext
from typing import Callable, ContextManager, Iterator, Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from .attack import Perturbation
from .augment import Strength, perturb
from .auxiliary_norms import auxiliary_norms, auxiliary_norms_run
from .changes import Change, adding, mixing
from .consistency import compare
from .draws import Draws
from .gradients import average_over_ranks, explained, gradient_of, summed, zero_unless
from .health import Health
from .isolation import isolated_random, restored_state
from .joint import JointBackward, needs_directions_first, perturbing
from .outcome import Outcome
from .pixels import pixel_bounds
from .recording import Recording
from .settings import AFANSettings
from .site import Features, Site, Tail
from .steering import Steering
from .tails import losses_of_tail, objective_of_tail
from .taps import taps_go_to


class Session(Recording):
    """The sites of one training step, and the order of its passes.

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
        replicas: The host in its data-parallel wrapper, where the step ends in an average over the
            ranks. Defaults to none.

    Attributes:
        sites: Those tapped in the clean pass, by name.
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
        replicas: Optional[DistributedDataParallel] = None,
    ):
        super().__init__(model, iteration)
        self.draws = Draws(key)
        self.forward_context = forward_context
        self.weigh = weigh
        self.scale_loss = scale_loss
        self.health = health or Health()
        self.replicas = replicas
        self.outcome = Outcome(model, self.health, steering, scale)
        self.back_propagate: Callable[[Tensor], None] = Tensor.backward
        self._directions_only = False
        self._directions_known = False

    def tap(
        self,
        name: str,
        features: Features,
        tail: Tail,
        settings: AFANSettings,
        context: Sequence[Tensor],
    ) -> Features:
        """See :func:`~afan_mm.tap`."""
        site = Site(name, features, tail, settings, context)
        return self.add(site, features, context, lambda gradients: self.at_gate(site, gradients))

    def backward(self, loss: Tensor, back_propagate: Callable[[Tensor], None]) -> None:
        """Back-propagate the clean loss and every adversarial pass (Eq. 6), on all ranks as one.

        Args:
            loss: The clean objective as the host computed it.
            back_propagate: Back-propagates one loss into ``.grad``.
        """
        self.back_propagate = back_propagate
        sites = self.entries
        if needs_directions_first([site.settings for site in sites]):
            with record_function('afan/directions'):
                self.find_gradients(loss)
        self.forget_outputs()
        with explained([site.name for site in sites]):
            back_propagate(loss)
            self.remove_hooks()
            for site in reversed(sites):
                # Its passes need nothing of the clean graph, which is freed by now. One that waited
                # at its gate in vain runs too: other ranks' losses may have read theirs.
                if not site.has_run:
                    self.run(site)
        self.outcome.step_over()
        if self.replicas is not None:
            average_over_ranks(self.replicas)

    def find_gradients(self, loss: Tensor) -> None:
        """The clean gradient at every site, before anything adversarial mixes with it."""
        self._directions_only = True
        gradients = iter(self.gradient_of(loss, self.outputs, retain_graph=True))
        for site in self.sites.values():
            site.gradients = [next(gradients) for _ in site.features]
        self._directions_only, self._directions_known = False, True

    def at_gate(
        self, site: Site, gradients: Sequence[Optional[Tensor]]
    ) -> Sequence[Optional[Tensor]]:
        """The clean backward has reached the site: keep its gradients, and hand on those the front
        is to learn from.
        """
        if self._directions_only:
            return gradients
        if site.has_run:
            raise RuntimeError(
                f'A-FAN site {site.name!r}: a second backward went through the graph of one '
                'forward pass. Add the losses up, and call backward once in a step'
            )
        if not self._directions_known:
            site.gradients = gradients
        if site.is_joined or not site.settings.within_backward:
            return gradients
        # Eq. 3: the clean backward waits here, and enters the front once, with the sum over all
        # passes.
        self.run(site)
        adversarial, site.feature_gradients = site.feature_gradients, []
        return [summed(*both) for both in zip(gradients, adversarial)]

    def run(self, site: Site) -> None:
        """Find the direction, then one forward and backward for each strength; gradients add up in
        ``.grad``.

        Args:
            site: One of :attr:`entries`.
        """
        site.has_run = True
        site.is_read = any(g is not None for each in site.group for g in each.gradients)
        for each in site.group:
            each.check()
        with self.isolated(site), self.norms(site):
            with record_function(f'afan/{site.name}/attack'):
                found = self.direction(site)
            passes = self.draws.strengths(site)
            site.gradients = []  # as large as the feature, and of no more use
            for later in site.joined:
                later.release()
            for feature in site.features:
                feature.requires_grad_(not site.settings.detach)
            losses = [self.adversarial_pass(site, found, each) for each in passes[:-1]]
            losses.append(self.adversarial_pass(site, found, passes[-1], is_last=True))
            self.outcome.passes_over(
                site, found.finite, losses, lambda: self.loss(site, site.features)
            )
        site.feature_gradients = [zero_unless(found.finite, f.grad) for f in site.features]
        site.context_gradients = [zero_unless(found.finite, c.grad) for c in site.context]
        site.release()

    @contextmanager
    def isolated(self, site: Site) -> Iterator[None]:
        """Whatever runs inside leaves no trace in the host but gradients."""
        with ExitStack() as stack:
            # a gate calls from within a backward, where gradients are off
            stack.enter_context(torch.enable_grad())
            stack.enter_context(
                isolated_random(self.draws.seed(site, 'host'), site.features[0].device)
            )
            if site.settings.bn_stats != 'all':
                stack.enter_context(restored_state(self.model, auxiliary_norms(self.model)))
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
            [gradient for each in site.group for gradient in each.gradients],
            self.outcome.scale_of(site),
            self.draws.noise(site),
            pixel_bounds(self.model, site),
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
        mixed = first(site.features)
        with record_function(f'afan/{site.name}/forward'):
            loss = self.loss(site, mixed, later)
        for each in site.group:
            self.health.add_loss(each.name, loss)
        # Every rank runs every pass, whatever its data: what must not count counts zero.
        counted = torch.where(found.finite, loss, torch.zeros_like(loss))
        weight = settings.adv_weight * settings.interval * strengths[0].weight
        if counted.requires_grad:  # it does where the clean loss reads the site
            with record_function(f'afan/{site.name}/backward'), taps_go_to(
                JointBackward(site.joined)
            ):
                self.back_propagate(self.weigh(weight * counted))
        return loss.detach()

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
