"""One training step of A-FAN: sites tap their features in the clean pass, the session runs the
adversarial passes.

Any module becomes a site with one call of :func:`tap`. A head that perturbs what its classifier
reads::

    class MyHead(BaseModule):

        def __init__(self, afan=None):
            self.afan = AFANSettings.from_config(afan or {}, name='my_head')  # `afan` is how
            AFANHook finds the site

        def loss(self, feature, targets):
            def tail(feature):
                return dict(loss_cls=F.cross_entropy(self.classifier(feature), targets))

            return tail(tap('my_head', feature, tail, self.afan))

With any optim wrapper but an A-FAN one, in evaluation, and inside an adversarial pass, ``tap``
returns its input.
"""

from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import torch
from torch import Tensor
from torch.profiler import record_function

from .passes import SitePasses
from .settings import AFANSettings, trained_modules
from .site import Features, Site, Tail

_recording: Optional['Session'] = None


def tap(
    name: str,
    features: Features,
    tail: Tail,
    settings: Optional[AFANSettings] = None,
    context: Sequence[Tensor] = (),
) -> Features:
    """Make ``features`` a site of the training step that is being recorded.

    Args:
        name: Name of the site; one tap per name and forward pass.
        features: The clean feature (N, C, *S), or a list or tuple of levels. All of it is
            perturbed.
        tail: ``tail(features, *context)`` runs everything after the site on perturbed features,
            structured like ``features``, and returns a dict of losses. It is called after the clean
            pass. What it closes over must not carry a gradient: that goes into ``features`` or
            ``context``.
        settings: How to perturb. Defaults to ``AFANSettings(name)``.
        context: Tensors from before the site that the tail reads unperturbed.

    Returns:
        What the host must go on with in place of ``features``.

    Raises:
        ValueError: If the site was already tapped in this forward pass.
    """
    settings = settings or AFANSettings(name=name)
    if not is_recording() or not settings.active(_recording.iteration):
        return features
    return _recording.tap(name, features, tail, settings, context)


def is_recording(settings: Optional[AFANSettings] = None) -> bool:
    """Whether a tap would be taken now: an A-FAN optim wrapper is in its clean pass, with gradients
    on.

    Args:
        settings: Those of the site; one that is off, sits this iteration out, or was tapped already
            takes no tap. Defaults to any site.
    """
    if _recording is None or not torch.is_grad_enabled():
        return False
    return (
        settings is None
        or settings.active(_recording.iteration)
        and settings.name not in _recording.sites
    )


class Session:
    """The sites of one training step, and the order of its passes.

    Args:
        passes: Runs the adversarial passes of one site.
        iteration: Number of the step, for sites that take part in some only. Defaults to 0.
    """

    def __init__(self, passes: SitePasses, iteration: int = 0):
        self.passes = passes
        self.iteration = iteration
        self.sites: Dict[str, Site] = {}
        self._outputs: List[Tensor] = []
        self._hooks: List[Any] = []
        self._directions_only = False
        self._directions_known = False

    @contextmanager
    def record(self) -> Iterator['Session']:
        """The clean forward pass: taps inside belong to this session.

        A module with a ``recording(host)`` context manager (the neck wrapper) is shown the model
        for as long.
        """
        global _recording
        before, _recording = _recording, self
        try:
            with ExitStack() as stack:
                for _, module in trained_modules(self.passes.model):
                    if hasattr(module, 'recording'):
                        stack.enter_context(module.recording(self.passes.model))
                yield self
        finally:
            _recording = before

    def tap(
        self,
        name: str,
        features: Features,
        tail: Tail,
        settings: AFANSettings,
        context: Sequence[Tensor],
    ) -> Features:
        """See :func:`tap`."""
        if name in self.sites:
            raise ValueError(
                f'A-FAN site {name!r} was tapped twice in one forward pass; give each call a name '
                'of its own'
            )
        site = self.sites[name] = Site(name, features, tail, settings, context)
        # A frozen front still has a direction: its feature starts a graph of its own.
        levels = [
            f if f.requires_grad else f.detach().requires_grad_() for f in site.levels_of(features)
        ]
        outputs = _Gate.apply(lambda gradients: self._at_gate(site, gradients), *levels)
        self._outputs.extend(outputs)
        if not settings.context_detached:
            for index, tensor in enumerate(context):
                if tensor.grad_fn is not None:
                    hook = tensor.register_hook(
                        lambda gradient, i=index: _sum(gradient, site.context_gradients[i])
                    )
                    self._hooks.append(hook)
        return site.pack(outputs)

    def backward(self, loss: Tensor, backward: Callable[[Tensor], None]) -> None:
        """Back-propagate the clean loss and every adversarial pass (Eq. 6).

        Args:
            loss: The clean objective as the host computed it.
            backward: Back-propagates one loss into ``.grad``.
        """
        outputs, self._outputs = self._outputs, []
        self.passes.backward = backward
        sites = list(self.sites.values())
        # An attached site adds to the gradient that a site upstream of it would take its direction
        # from.
        if len(sites) > 1 and any(site.settings.within_backward for site in sites):
            with record_function('afan/directions'):
                self._find_directions(loss, outputs)
        del outputs
        backward(loss)
        # or a tail that closes over a graph would keep it alive through its own hook
        for hook in self._hooks:
            hook.remove()
        for site in reversed(sites):
            # its passes need nothing of the clean graph, which is freed by now
            if not site.settings.within_backward:
                self.passes.run(site)

    def _find_directions(self, loss: Tensor, outputs: List[Tensor]) -> None:
        """The clean gradient at every site, before anything adversarial mixes with it."""
        self._directions_only = True
        gradients = iter(self.passes.gradient_of(loss, outputs, retain_graph=True))
        for site in self.sites.values():
            site.gradients = [next(gradients) for _ in site.features]
        self._directions_only, self._directions_known = False, True

    def _at_gate(
        self, site: Site, gradients: Sequence[Optional[Tensor]]
    ) -> Sequence[Optional[Tensor]]:
        """The clean backward has reached the site: keep its gradients, and hand on those the front
        is to learn from.
        """
        if self._directions_only:
            return gradients
        if not self._directions_known:
            site.gradients = gradients
        if not site.settings.within_backward:
            return gradients
        # Eq. 3: the clean backward waits here, and enters the front once, with the sum over all
        # passes.
        self.passes.run(site)
        adversarial, site.feature_gradients = site.feature_gradients, []
        return [_sum(*both) for both in zip(gradients, adversarial)]


class _Gate(torch.autograd.Function):
    """Identity whose backward is handed the gradients of all levels at once, when everything after
    the site is done.

    Autograd runs nodes in the reverse order of their creation, so at that moment nothing before the
    site has run yet.
    """

    @staticmethod
    def forward(ctx, on_backward, *features):
        ctx.set_materialize_grads(False)
        ctx.on_backward = on_backward
        # not view_as: the host may modify an output in place
        return tuple(f.detach() for f in features)

    @staticmethod
    def backward(ctx, *gradients):
        return (None, *ctx.on_backward(gradients))


def _sum(first: Optional[Tensor], second: Optional[Tensor]) -> Optional[Tensor]:
    if first is None or second is None:
        return second if first is None else first
    return first + second
