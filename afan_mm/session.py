"""One training step of A-FAN, in its order.

1. The host's clean forward pass: sites :func:`~afan_mm.tap` their features (:meth:`Session.tap`).
2. The clean backward: a gate at each site is handed the clean gradient (:meth:`Session.at_gate`).
3. The direction of a site, from that gradient (:meth:`~afan_mm.passes.Passes.direction`, Eq. 2).
4. For each strength a forward and backward of the site's tail on the perturbed feature
   (:meth:`~afan_mm.passes.Passes.adversarial_pass`, Eqs. 3 to 6). Of joint sites
   (:mod:`afan_mm.joint`) the first one's passes perturb all. The loss of the passes of 3 and 4 may
   be the divergence from the clean prediction (:mod:`afan_mm.consistency`).
5. The sum of all gradients is averaged over the ranks (end of :meth:`Session.backward`).

Gradients add up in ``.grad``. Where the layers before the site learn from steps 3 and 4, these
happen within step 2, while the clean backward waits at the gate. The optim wrapper then updates
once.
"""

from typing import Callable, Optional, Sequence

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from .augment import unit
from .gradients import average_over_ranks, explained, without_memory, zero_unless_
from .isolation import restored_state
from .joint import needs_directions_first
from .passes import Passes
from .settings import AFANSettings
from .site import Features, Site, Tail


class Session(Passes):
    """The sites of one training step, and the order of its passes.

    Args:
        replicas: The host in its data-parallel wrapper, where the step ends in an average over the
            ranks. Defaults to none.
        kwargs: Those of :class:`~afan_mm.passes.Passes`: the host, the step, and what surrounds its
            passes.

    Attributes:
        sites: Those tapped in the clean pass, by name.
    """

    def __init__(
        self, model: nn.Module, replicas: Optional[DistributedDataParallel] = None, **kwargs
    ):
        super().__init__(model, **kwargs)
        self.replicas = replicas
        self.was_replaced = False
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
        outputs = self.add(
            site,
            features,
            context,
            lambda gradients: self.at_site(site, gradients),
            lambda gradients: self.at_gate(site, gradients),
        )
        if site.is_joined:
            self.joined(site)
        return outputs

    def joined(self, site: Site) -> None:
        """A later site of a group has been met; it needs not hold its feature until it is gone."""
        if site.settings.epsilon_unit != 'pixel':
            site.measured([unit(site.settings, feature) for feature in site.features])

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
            # Their passes need nothing of the clean graph, which is freed by now.
            self.run_missing([site for site in sites if site.settings.within_backward])
            self.run_missing(sites)
        self.outcome.step_over()
        if self.replicas is not None:
            average_over_ranks(self.replicas)

    def find_gradients(self, loss: Tensor) -> None:
        """The clean gradient at every site, before anything adversarial mixes with it."""
        self._directions_only = True
        with restored_state(self.model):  # checkpointed layers run again
            gradients = iter(self.gradient_of(loss, self.outputs, retain_graph=True))
        for site in self.sites.values():
            site.gradients = [next(gradients) for _ in site.features]
        self._directions_only, self._directions_known = False, True

    def at_site(
        self, site: Site, gradients: Sequence[Optional[Tensor]]
    ) -> Sequence[Optional[Tensor]]:
        """The clean backward has reached the site: keep its gradients."""
        if self._directions_only:
            return gradients
        if self.was_replaced:
            raise RuntimeError(
                f'A-FAN site {site.name!r}: another forward pass began (optim_context) before the '
                'backward of this one. Run all forward passes of a step inside one optim_context, '
                'or call backward once for each'
            )
        if site.has_run:
            raise RuntimeError(
                f'A-FAN site {site.name!r}: a second backward went through the graph of one '
                'forward pass. Add the losses up, and call backward once in a step'
            )
        if not self._directions_known:
            site.gradients = gradients
        if not site.holds_backward:
            return gradients
        # The engine holds what it hands to a node for as long as that runs, and what it hands to
        # the gate would be held throughout the passes, beside the sum that they make of it.
        site.feature_gradients = gradients
        return [without_memory(gradient) for gradient in gradients]

    def at_gate(
        self, site: Site, gradients: Sequence[Optional[Tensor]]
    ) -> Sequence[Optional[Tensor]]:
        """The clean backward waits in front of the site while its passes run, and goes on with the
        sum of all gradients (Eq. 3), so that it enters the layers there once.
        """
        if self._directions_only:
            return gradients
        # The backward is past all later gates.
        later = self.entries[self.entries.index(site) + 1 :]
        self.run_missing([each for each in later if each.settings.within_backward])
        self.run(site)
        total, site.feature_gradients = site.feature_gradients, []
        return total

    def run_missing(self, sites: Sequence[Site]) -> None:
        """Run those that have not run, the last one first. A site that waited at its gate in vain,
        as this rank's loss does not read it, runs where it does on ranks whose loss does: what the
        tails do on all ranks together must meet its like.
        """
        for site in reversed(sites):
            if not site.has_run:
                self.run(site)

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
            for later in site.joined:
                later.release()
            losses = [self.adversarial_pass(site, found, each) for each in passes[:-1]]
            losses.append(self.adversarial_pass(site, found, passes[-1], is_last=True))
            self.outcome.passes_over(
                site, found.finite, losses, lambda: self.loss(site, site.features)
            )
        site.context_gradients = [c.grad for c in site.context]
        zero_unless_(found.finite, [g for g in site.context_gradients if g is not None])
        site.release()
