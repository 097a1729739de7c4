"""The clean forward pass of a step: which sites it meets, and where they are in its graph."""

from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import AbstractSet, Any, Callable, ContextManager, Dict, Iterator, List, Sequence, Set

from torch import Tensor, nn

from .consistency import note
from .declared import declared_by, trained_modules
from .gradients import Gate, summed
from .joint import check_group
from .settings import AFANSettings
from .site import Features, Site
from .taps import taps_go_to


class Recording:
    """The sites of one clean forward pass.

    The subclass takes the taps: its ``tap`` has the arguments of :func:`~afan_mm.tap`.

    Args:
        model: The host.
        iteration: Number of the step, for sites that take part in some only. Defaults to 0.

    Attributes:
        sites: Those tapped, by name.
    """

    records = True

    def __init__(self, model: nn.Module, iteration: int = 0):
        self.model = model
        self.iteration = iteration
        self.sites: Dict[str, Site] = {}
        self._components: List[nn.Module] = []
        self._outputs: Dict[str, Sequence[Tensor]] = {}
        self._hooks: List[Any] = []

    @contextmanager
    def record(self) -> Iterator['Recording']:
        """The clean forward pass: taps inside belong to this step.

        A module with a context manager ``afan_recording(host)`` (the neck wrapper) is shown the
        model for as long; ``afan_perturbing(host)`` is the same for joint adversarial passes.
        """
        self._components = [
            module for _, module in trained_modules(self.model) if hasattr(module, 'afan')
        ]
        try:
            shown = self.shown('afan_recording')
            with taps_go_to(self), shown, self._host_heard(), self._predictions_noted():
                yield self
        except BaseException:
            self.discard()
            raise

    @contextmanager
    def shown(self, method: str) -> Iterator[None]:
        """Inside, the model is shown to the components that have the method."""
        with ExitStack() as stack:
            for component in self._components:
                if hasattr(component, method):
                    stack.enter_context(getattr(component, method)(self.model))
            yield

    @contextmanager
    def _host_heard(self) -> Iterator[None]:
        """Inside, the sites are told what losses the host returns."""

        def returned(losses: Any) -> None:
            for site in self.sites.values():
                site.host_returned(losses)

        hook = self.model.register_forward_hook(lambda module, args, losses: returned(losses))
        try:
            yield
        finally:
            hook.remove()
        returned(None)  # a host that was not called as a module

    def _predictions_noted(self) -> ContextManager:
        """Inside, sites with ``objective='consistency'`` are told the clean predictions."""
        if any(s.objective == 'consistency' and self.wants(s) for s in self.declared):
            return note(self.model, lambda: [s.consistency for s in self.entries if s.consistency])
        return nullcontext()

    def wants(self, settings: AFANSettings) -> bool:
        """Whether the site takes part in this step."""
        return settings.active(self.iteration)

    def add(
        self,
        site: Site,
        features: Features,
        context: Sequence[Tensor],
        at_site: Callable,
        at_gate: Callable,
    ) -> Features:
        """Meet a site.

        Args:
            site: A new one.
            features, context: As tapped, in the clean graph.
            at_site: Maps the gradients at the levels, once the clean backward has reached them, to
                those that it goes on with.
            at_gate: The same with what ``at_site`` gave, where the clean backward waits.

        Returns:
            What the host must go on with in place of ``features``.

        Raises:
            ValueError: If the site was already tapped.
        """
        if site.name in self.sites:
            raise ValueError(
                f'A-FAN site {site.name!r} was tapped twice in one forward pass; give each call a '
                'name of its own'
            )
        if site.settings.joint:
            self._join(site)
        self.sites[site.name] = site
        # A frozen front still has a direction: its feature starts a graph of its own.
        levels = [
            f if f.requires_grad else f.detach().requires_grad_() for f in site.levels_of(features)
        ]
        if site.holds_backward:
            levels = Gate.apply(at_gate, *levels)
        outputs = self._outputs[site.name] = Gate.apply(at_site, *levels)
        if not site.settings.context_detached and not site.is_joined:
            self._hook(site, context)
        return site.pack(outputs)

    def _join(self, site: Site) -> None:
        joint = [each for each in self.sites.values() if each.settings.joint]
        check_group([each.settings for each in (*joint, site)])
        if joint:
            joint[0].join(site)

    def _hook(self, site: Site, context: Sequence[Tensor]) -> None:
        """The clean backward takes along what the passes of a site add to the gradient of what its
        tail reads unperturbed.
        """

        def add(index: int, gradient: Tensor) -> Tensor:
            ours, site.context_gradients[index] = site.context_gradients[index], None
            return summed(gradient, ours)

        for index, tensor in enumerate(context):
            if tensor.grad_fn is not None:
                self._hooks.append(tensor.register_hook(partial(add, index)))

    def gates_of(self, settings: AFANSettings) -> List[Any]:
        """See :func:`~afan_mm.taps.gates_of`."""
        return [
            outputs[0].grad_fn
            for name, outputs in self._outputs.items()
            if name == settings.name or settings.joint and self.sites[name].settings.joint
        ]

    @property
    def outputs(self) -> List[Tensor]:
        """The levels of all sites, behind their gates."""
        return [output for levels in self._outputs.values() for output in levels]

    @property
    def entries(self) -> List[Site]:
        """The sites that have passes: all but those that are perturbed in another one's."""
        return [site for site in self.sites.values() if not site.is_joined]

    @property
    def declared(self) -> List[AFANSettings]:
        """The sites that the model's modules declare and that are not switched off."""
        each = [settings for module in self._components for settings in declared_by(module)]
        return [settings for settings in each if settings.num_strengths]

    @property
    def wanted(self) -> Set[str]:
        """The names of the declared sites that take part in this step."""
        return {settings.name for settings in self.declared if self.wants(settings)}

    def check_ran(self, names: AbstractSet[str]) -> None:
        """Raise if one of these sites had no passes: it would train as stock, and say nothing.

        Args:
            names: Of sites that take part in this step, and took part in none before.
        """
        missed = sorted(names - self.sites.keys())
        for site in self.sites.values():
            if site.settings.name in missed:
                raise ValueError(
                    f'the name of a tap must be that of its settings, {site.settings.name!r}, but '
                    f'got {site.name!r}'
                )
        if missed:
            raise RuntimeError(
                f'A-FAN sites {missed} were not reached in the forward pass of their first step: '
                'their modules did not run, or ran without gradients, as inside re-entrant '
                'activation checkpointing (with_cp=True). Choose other sites, or write '
                'num_strengths=0 there'
            )
        first = [site for site in self.entries if site.name in names]
        unread = [site.name for site in first if not site.is_read]
        if unread:
            raise RuntimeError(
                f'A-FAN sites {unread} were tapped in their first step, but the loss does not '
                'depend on their features, so there is nothing to attack. Choose other sites or '
                'other levels'
            )
        for site in first:
            if site.consistency is not None:
                owners = [m for m in self._components if site.settings in declared_by(m)]
                site.consistency.check(owners)

    def forget_outputs(self) -> None:
        """The clean backward begins, and frees its graph as it goes."""
        self._outputs.clear()

    def remove_hooks(self) -> None:
        """The clean backward is over. A tail that closes over a graph would keep it alive through
        its own hook.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def discard(self) -> None:
        """Let go of a clean pass that failed, or whose backward is over or never comes: its graph
        knows this step by the gates, and must not be kept alive by it.
        """
        self.forget_outputs()
        self.sites.clear()
        self.remove_hooks()
