"""One training step of A-FAN, in its order.

1. The host's clean forward pass: sites :func:`~afan_mm.tap` their features (:meth:`Session.tap`).
2. The clean backward: a gate at each site is handed the clean gradient (:meth:`Session.at_gate`).
3. The direction of a site, from that gradient (:meth:`Session.direction`, Eq. 2).
4. For each strength a forward and backward of the site's tail on the perturbed feature
   (:meth:`Session.adversarial_pass`, Eqs. 3 to 6). Of joint sites (:mod:`afan_mm.joint`) the first
   one's passes perturb all. The loss of the passes of 3 and 4 may be the divergence from the clean
   prediction (:mod:`afan_mm.consistency`).

Gradients add up in ``.grad``. Where the layers before the site learn from steps 3 and 4, these
happen within step 2, while the clean backward waits at the gate. The optim wrapper then averages
over the ranks and updates once.
"""

import random
from contextlib import ExitStack, contextmanager, nullcontext
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.checkpoint import checkpoint

from .attack import Perturbation
from .augment import Strength, draw, mix, perturb
from .auxiliary_norms import auxiliary_norms, auxiliary_norms_run
from .consistency import compare, note
from .functional import full_precision
from .health import Health
from .isolation import isolated_random, restored_state
from .joint import Change, JointPass, check_group
from .pixels import pixel_bounds
from .settings import AFANSettings
from .site import Features, Site, Tail, declared_by, taps_go_to, trained_modules
from .steering import Steering


class Session:
    """The sites of one training step, and the order of its passes.

    Args:
        model: The host. Its ``parse_losses`` turns a dict of losses into the objective.
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
        sites: Those tapped in the clean pass, by name.
    """

    records = True

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
        self.model = model
        self.key = key
        self.iteration = iteration
        self.scale = scale
        self.forward_context = forward_context
        self.weigh = weigh
        self.scale_loss = scale_loss
        self.health = health or Health()
        self.steering = steering
        self.back_propagate: Callable[[Tensor], None] = Tensor.backward
        self.sites: Dict[str, Site] = {}
        self._components: List[nn.Module] = []
        self._outputs: Dict[str, Sequence[Tensor]] = {}
        self._hooks: List[Any] = []
        self._directions_only = False
        self._directions_known = False

    @contextmanager
    def record(self) -> Iterator['Session']:
        """The clean forward pass: taps inside belong to this session.

        A module with a context manager ``afan_recording(host)`` (the neck wrapper) is shown the
        model for as long; ``afan_perturbing(host)`` is the same for joint adversarial passes.
        """
        self._components = [
            module for _, module in trained_modules(self.model) if hasattr(module, 'afan')
        ]
        try:
            shown = self._shown('afan_recording')
            with taps_go_to(self), shown, self._host_heard(), self._predictions_noted():
                yield self
        except BaseException:
            self.discard()
            raise

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

    def discard(self) -> None:
        """Let go of a clean pass that failed, or whose backward is over or never comes: its graph
        knows this session by the gates, and must not be kept alive by it.
        """
        self._outputs.clear()
        self.sites.clear()
        self.remove_hooks()

    @contextmanager
    def _shown(self, method: str) -> Iterator[None]:
        """Inside, the model is shown to the components that have the method."""
        with ExitStack() as stack:
            for component in self._components:
                if hasattr(component, method):
                    stack.enter_context(getattr(component, method)(self.model))
            yield

    def wants(self, settings: AFANSettings) -> bool:
        """Whether the site takes part in this step."""
        return settings.active(self.iteration)

    def gates_of(self, settings: AFANSettings) -> List[Any]:
        """See :func:`~afan_mm.site.gates_of`."""
        return [
            outputs[0].grad_fn
            for name, outputs in self._outputs.items()
            if name == settings.name or settings.joint and self.sites[name].settings.joint
        ]

    def tap(
        self,
        name: str,
        features: Features,
        tail: Tail,
        settings: AFANSettings,
        context: Sequence[Tensor],
    ) -> Features:
        """See :func:`~afan_mm.tap`."""
        if name in self.sites:
            raise ValueError(
                f'A-FAN site {name!r} was tapped twice in one forward pass; give each call a name '
                'of its own'
            )
        site = Site(name, features, tail, settings, context)
        if settings.joint:
            self._join(site)
        self.sites[name] = site
        # A frozen front still has a direction: its feature starts a graph of its own.
        levels = [
            f if f.requires_grad else f.detach().requires_grad_() for f in site.levels_of(features)
        ]
        outputs = _Gate.apply(lambda gradients: self.at_gate(site, gradients), *levels)
        self._outputs[name] = outputs
        if not settings.context_detached and not site.is_joined:
            for index, tensor in enumerate(context):
                if tensor.grad_fn is not None:
                    hook = tensor.register_hook(
                        lambda gradient, i=index: _sum(gradient, site.context_gradients[i])
                    )
                    self._hooks.append(hook)
        return site.pack(outputs)

    def _join(self, site: Site) -> None:
        joint = [each for each in self.sites.values() if each.settings.joint]
        check_group([each.settings for each in (*joint, site)])
        if joint:
            joint[0].join(site)

    @property
    def entries(self) -> List[Site]:
        """The sites that have passes: all but those that are perturbed in another one's."""
        return [site for site in self.sites.values() if not site.is_joined]

    def backward(self, loss: Tensor, back_propagate: Callable[[Tensor], None]) -> None:
        """Back-propagate the clean loss and every adversarial pass (Eq. 6).

        Args:
            loss: The clean objective as the host computed it.
            back_propagate: Back-propagates one loss into ``.grad``.
        """
        self.back_propagate = back_propagate
        sites = self.entries
        # An attached site adds to the gradient that a site upstream of it would take its direction
        # from.
        if len(sites) > 1 and any(site.settings.within_backward for site in sites):
            with record_function('afan/directions'):
                self.find_gradients(loss)
        self._outputs = {}
        back_propagate(loss)
        self.remove_hooks()
        for site in reversed(sites):
            # its passes need nothing of the clean graph, which is freed by now
            if not site.settings.within_backward:
                self.run(site)

    @property
    def declared(self) -> List[AFANSettings]:
        """The sites that the model's modules declare and that are not switched off."""
        each = [settings for module in self._components for settings in declared_by(module)]
        return [settings for settings in each if settings.num_strengths]

    def check_all_ran(self) -> None:
        """Raise if a site of this step had no passes: it would train as stock, and say nothing."""
        missed = [s.name for s in self.declared if self.wants(s) and s.name not in self.sites]
        if missed:
            raise RuntimeError(
                f'A-FAN sites {missed} were not reached in the forward pass of the first step: '
                'their modules did not run, or ran without gradients, as inside re-entrant '
                'activation checkpointing (with_cp=True). Choose other sites, or write '
                'num_strengths=0 there'
            )
        unread = [site.name for site in self.entries if not site.has_run]
        if unread:
            raise RuntimeError(
                f'A-FAN sites {unread} were tapped in the first step, but the loss does not '
                'depend on their features, so there is nothing to attack. Choose other sites or '
                'other levels'
            )
        for site in self.entries:
            if site.consistency is not None:
                owners = [m for m in self._components if site.settings in declared_by(m)]
                site.consistency.check(owners)

    def find_gradients(self, loss: Tensor) -> None:
        """The clean gradient at every site, before anything adversarial mixes with it."""
        self._directions_only = True
        outputs = [output for levels in self._outputs.values() for output in levels]
        gradients = iter(self.gradient_of(loss, outputs, retain_graph=True))
        for site in self.sites.values():
            site.gradients = [next(gradients) for _ in site.features]
        self._directions_only, self._directions_known = False, True

    def remove_hooks(self) -> None:
        """The clean backward is over. A tail that closes over a graph would keep it alive through
        its own hook.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def at_gate(
        self, site: Site, gradients: Sequence[Optional[Tensor]]
    ) -> Sequence[Optional[Tensor]]:
        """The clean backward has reached the site: keep its gradients, and hand on those the front
        is to learn from.
        """
        if self._directions_only:
            return gradients
        if not self._directions_known:
            site.gradients = gradients
        if site.is_joined or not site.settings.within_backward:
            return gradients
        if site.has_run:
            raise RuntimeError(
                f'A-FAN site {site.name!r}: a second backward went through the graph of one '
                'forward pass. Add the losses up, and call backward once in a step'
            )
        # Eq. 3: the clean backward waits here, and enters the front once, with the sum over all
        # passes.
        self.run(site)
        adversarial, site.feature_gradients = site.feature_gradients, []
        return [_sum(*both) for both in zip(gradients, adversarial)]

    def run(self, site: Site) -> None:
        """Find the direction, then one forward and backward for each strength; gradients add up in
        ``.grad``.

        Args:
            site: One of :attr:`entries`.
        """
        site.has_run = True
        for each in site.group:
            each.check()
        with self.isolated(site):
            with self.norms(site):
                with record_function(f'afan/{site.name}/attack'):
                    found = self.direction(site)
                passes = self.strengths(site)
                site.gradients = []  # as large as the feature, and of no more use
                for later in site.joined:
                    later.release()
                for feature in site.features:
                    feature.requires_grad_(not site.settings.detach)
                losses = [self.adversarial_pass(site, found, strengths) for strengths in passes]
            self._steer(site, found, losses)
            with record_function(f'afan/{site.name}/health'):
                self._add_to_health(site, found)
        site.feature_gradients = [_zero_unless(found.finite, f.grad) for f in site.features]
        site.context_gradients = [_zero_unless(found.finite, c.grad) for c in site.context]
        site.release()

    @contextmanager
    def isolated(self, site: Site) -> Iterator[None]:
        """Whatever runs inside leaves no trace in the host but gradients."""
        with ExitStack() as stack:
            # a gate calls from within a backward, where gradients are off
            stack.enter_context(torch.enable_grad())
            stack.enter_context(isolated_random(self._seed(site, 'host'), site.features[0].device))
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
        generator = torch.Generator(site.features[0].device).manual_seed(self._seed(site, 'noise'))
        return perturb(
            [each.settings for each in site.group for _ in each.features],
            [feature for each in site.group for feature in each.features],
            lambda deltas: self.gradient(site, deltas),
            [gradient for each in site.group for gradient in each.gradients],
            self.scale_of(site),
            generator,
            pixel_bounds(self.model, site),
        )

    def strengths(self, site: Site) -> List[Sequence[Strength]]:
        """Those of the site's passes, drawn for this step: for each pass one for every site that it
        perturbs. They are the same for all, but where one has other samples (RoIs, not images).
        """
        seed = self._seed(site, 'strengths')
        drawn = [
            draw(
                each.settings,
                torch.Generator().manual_seed(seed),
                len(each.features[0]),
                each.features[0].device,
            )
            for each in site.group
        ]
        return list(zip(*drawn))

    def adversarial_pass(
        self, site: Site, found: Perturbation, strengths: Sequence[Strength]
    ) -> Tensor:
        """One forward and backward of the tail; the loss, without a graph.

        Args:
            site: Where it enters.
            found: The perturbation of all sites that it perturbs.
            strengths: One for each of them.
        """
        settings = site.settings
        first, *later = [
            self._mixing(*each) for each in zip(site.group, site.split(found.deltas), strengths)
        ]
        mixed = first(site.features)
        with record_function(f'afan/{site.name}/forward'):
            loss = self.loss(site, mixed, later)
        for each in site.group:
            self.health.add_loss(each.name, loss)
        # Every rank runs every pass, whatever its data: what must not count counts zero.
        counted = torch.where(found.finite, loss, torch.zeros_like(loss))
        weight = settings.adv_weight * settings.interval * strengths[0].weight
        with record_function(f'afan/{site.name}/backward'):
            self.back_propagate(self.weigh(weight * counted))
        return loss.detach()

    def _mixing(self, site: Site, deltas: Sequence[Tensor], strength: Strength) -> Change:
        """Maps the site's feature, as it is in a pass, to what the pass goes on with."""

        def change(levels: Sequence[Tensor]) -> List[Tensor]:
            with record_function(f'afan/{site.name}/mix'):
                # Computed again in the backward: cheap, and several copies of the feature less to
                # keep until then.
                mixed = [
                    checkpoint(
                        mix,
                        site.settings,
                        f,
                        d,
                        strength,
                        use_reentrant=False,
                        preserve_rng_state=False,
                    )
                    for f, d in zip(levels, deltas)
                ]
            self.health.add_mix(site.name, strength.value, levels, mixed, deltas)
            return mixed

        return change

    def gradient(self, site: Site, deltas: Sequence[Tensor]) -> Sequence[Optional[Tensor]]:
        """The loss's gradient with respect to the deltas of all sites that the passes of this one
        perturb: one attack pass.
        """
        deltas = [delta.detach().requires_grad_() for delta in deltas]
        first, *later = [_adding(each) for each in site.split(deltas)]
        return self.gradient_of(self.loss(site, first(site.features), later), deltas)

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
                '(with_cp=True) does not support. Either set with_cp=False, or keep to what the '
                'clean backward gives for free: num_steps=1, random_start=False, and detach=True '
                'where there are several sites'
            ) from error

    def loss(self, site: Site, levels: Sequence[Tensor], later: Sequence[Change] = ()) -> Tensor:
        """The objective of the site's tail.

        Args:
            site: Where it starts.
            levels: The feature there.
            later: What happens to the features of the sites joined to it. Defaults to nothing.
        """
        if site.streams is not None:
            site.streams.restore()
        compared = compare(self.model, site.consistency)
        with self.forward_context(), self._perturbing(site, later), compared as divergences:
            losses = site.tail(site.pack(levels), *site.context)
        if not isinstance(losses, dict):
            raise TypeError(
                f'the tail of A-FAN site {site.name!r} must return a dict of losses, but got '
                f'{type(losses).__name__}'
            )
        entering = site.as_of_host(losses)
        if not any('loss' in key for key in entering):
            raise ValueError(
                f'A-FAN site {site.name!r}: no loss depends on its feature, so there is nothing '
                f'to attack (the tail returned {sorted(losses)}). Choose another site or other '
                'levels'
            )
        objective = self.model.parse_losses(entering)[0]
        return objective if divergences is None else divergences.objective(objective)

    @contextmanager
    def _perturbing(self, site: Site, later: Sequence[Change]) -> Iterator[None]:
        if not later:
            yield
            return
        joint_pass = JointPass(list(zip(site.joined, later)))
        with taps_go_to(joint_pass), self._shown('afan_perturbing'):
            yield
        joint_pass.check_all_met(site.name)

    def _add_to_health(self, site: Site, found: Perturbation) -> None:
        """The figures of the step; of the passes of joint sites each site has its own."""
        loss: List[Tensor] = []

        def clean_loss() -> Tensor:
            if not loss:
                loss.append(self.clean_loss(site))
            return loss[0]

        for each, deltas in zip(site.group, site.split(found.deltas)):
            self.health.add_step(each.name, deltas, found.finite, clean_loss)

    @torch.no_grad()
    def clean_loss(self, site: Site) -> Tensor:
        """What the passes' loss is on the clean feature: from itself it has no divergence."""
        if site.consistency is not None:
            return torch.zeros((), device=site.features[0].device)
        with restored_state(self.model):  # no trace, whatever bn_stats
            return self.loss(site, site.features)

    def scale_of(self, site: Site) -> Union[float, Tensor]:
        """The factor on the epsilon of a site and of those joined to it."""
        if self.steering is None or site.settings.target_gain is None:
            return self.scale
        return self.scale * self.steering.factor(site.settings, site.features[0])

    def _steer(self, site: Site, found: Perturbation, losses: Sequence[Tensor]) -> None:
        """Tell the controller of epsilon what this step's passes did; not while warming up."""
        if self.steering is None or site.settings.target_gain is None or self.scale < 1:
            return
        if site.clean_losses is not None and site.consistency is None:
            clean = self.model.parse_losses(site.as_of_host(site.clean_losses))[0]
        else:
            clean = self.clean_loss(site)
        gain = torch.stack(list(losses)).mean() - clean
        gain = torch.where(found.finite, gain, torch.full_like(gain, torch.nan))
        self.steering.update(site.settings, gain)
        self.health.add_factor(site.name, self.steering.factor(site.settings, gain))

    def _seed(self, site: Site, purpose: str) -> int:
        return random.Random(f'{self.key}/{site.name}/{purpose}').getrandbits(63)


class _Gate(torch.autograd.Function):
    """Identity whose backward is handed the gradients of all levels at once, when everything after
    the site is done.

    Autograd runs nodes in the reverse order of their creation, so at that moment nothing before the
    site has run yet.
    """

    @staticmethod
    def forward(ctx: Any, on_backward: Callable, *features: Tensor) -> Tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.on_backward = on_backward
        # not view_as: the host may modify an output in place
        return tuple(f.detach() for f in features)

    @staticmethod
    def backward(ctx: Any, *gradients: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
        return (None, *ctx.on_backward(gradients))


def _adding(deltas: Sequence[Tensor]) -> Change:
    return lambda levels: [(full_precision(f) + d).to(f.dtype) for f, d in zip(levels, deltas)]


def _sum(first: Optional[Tensor], second: Optional[Tensor]) -> Optional[Tensor]:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _zero_unless(finite: Tensor, gradient: Optional[Tensor]) -> Optional[Tensor]:
    return None if gradient is None else torch.where(finite, gradient, torch.zeros_like(gradient))
