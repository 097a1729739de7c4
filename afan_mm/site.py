"""Where a feature is perturbed: any module becomes a site with one call of :func:`~afan_mm.tap`.

A head that perturbs what its classifier reads::

    class MyHead(BaseModule):

        def __init__(self, afan=None):
            # by this attribute AFANHook finds the site
            self.afan = AFANSettings.from_config(afan or {}, name='my_head')

        def loss(self, feature, targets):
            def tail(feature):
                return dict(loss_cls=F.cross_entropy(self.classifier(feature), targets))

            return tail(tap('my_head', feature, tail, self.afan))

With any optim wrapper but an A-FAN one, in evaluation, and inside an adversarial pass, ``tap``
returns its input; but inside a joint pass (:mod:`afan_mm.joint`) a later site returns the feature
it was given, perturbed. A tail that is to reach such a site must therefore call its ``tap`` too.
"""

from contextlib import contextmanager
from typing import Any, Callable, Collection, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from .consistency import Consistency, Prediction
from .contribution import Contribution, Losses
from .isolation import RandomStreams
from .settings import AFANSettings

Features = Union[Tensor, Sequence[Tensor]]
Tail = Callable[..., Losses]

_taker: Any = None  # what taps go to: the session in its clean pass, or a joint pass


def tap(
    name: str,
    features: Features,
    tail: Tail,
    settings: Optional[AFANSettings] = None,
    context: Sequence[Tensor] = (),
) -> Features:
    """Make ``features`` a site of the training step that is being recorded.

    Args:
        name: Name of the site, that of its settings where a module declares it; one tap per name
            and forward pass.
        features: The clean feature (N, C, *S), or a list or tuple of levels. All of it is
            perturbed.
        tail: ``tail(features, *context)`` runs everything after the site on perturbed features,
            structured like ``features``, and returns a dict of losses. It is called after the clean
            pass. What it closes over must not carry a gradient: that goes into ``features`` or
            ``context``. The losses are handed to the host's ``parse_losses`` as they are, or added
            up where a plain module has none: if that looks at names, or the host weights what this
            module returns, so must the tail.
        settings: How to perturb. Defaults to ``AFANSettings(name)``.
        context: Tensors from before the site that the tail reads unperturbed.

    Returns:
        What the host must go on with in place of ``features``.

    Raises:
        ValueError: If the site was already tapped in this forward pass.
    """
    settings = settings or AFANSettings(name=name)
    if _taker is None or not torch.is_grad_enabled() or not _taker.wants(settings):
        return features
    return _taker.tap(name, features, tail, settings, context)


def is_recording(settings: Optional[AFANSettings] = None) -> bool:
    """Whether a tap would be taken now: an A-FAN optim wrapper is in its clean pass, with gradients
    on.

    Args:
        settings: Those of the site; one that is off, sits this iteration out, or was tapped already
            takes no tap. Defaults to any site.
    """
    if _taker is None or not _taker.records or not torch.is_grad_enabled():
        return False
    return settings is None or _taker.wants(settings) and settings.name not in _taker.sites


def is_perturbing(settings: AFANSettings) -> bool:
    """Whether a tap would be perturbed now: a joint adversarial pass of an earlier site is running,
    and has not met this one yet.
    """
    return (
        _taker is not None
        and not _taker.records
        and torch.is_grad_enabled()
        and _taker.wants(settings)
    )


def gates_of(settings: AFANSettings) -> List[Any]:
    """While recording: the graph nodes at which a pass of the site perturbs; for a joint one those
    of all joint sites so far.
    """
    return _taker.gates_of(settings)


def note_clean_losses(settings: AFANSettings, losses: Losses) -> None:
    """While recording: the clean losses that the site's tail gives again, as they were before the
    host did anything with them.
    """
    site = _taker.sites[settings.name]
    site.clean_losses = losses
    if site.consistency is not None:
        site.consistency.listens = False


def clean_predictions(settings: AFANSettings) -> List[Prediction]:
    """While recording: what cross entropies have read since the site was tapped, where its passes
    compare with it.
    """
    site = _taker.sites.get(settings.name)
    return [] if site is None or site.consistency is None else list(site.consistency.predictions)


def forget_predictions(settings: AFANSettings, predictions: Collection[Prediction]) -> None:
    """While recording: the site's tail will not read these again."""
    site = _taker.sites[settings.name]
    if site.consistency is not None:
        site.consistency.forget(predictions)


@contextmanager
def taps_go_to(taker: Any) -> Iterator[None]:
    """Taps inside belong to a session that records, or to a joint pass.

    Args:
        taker: Has ``records``, ``wants(settings)`` and ``tap`` with the arguments of :func:`tap`.
    """
    global _taker
    before, _taker = _taker, taker
    try:
        yield
    finally:
        _taker = before


def declared_by(module: Any) -> List[AFANSettings]:
    """The settings of the sites that a module declares in its attribute ``afan``, which holds one
    or a list of them.
    """
    declared = getattr(module, 'afan', None)
    return [
        s
        for s in (declared if isinstance(declared, (list, tuple)) else [declared])
        if isinstance(s, AFANSettings)
    ]


def trained_modules(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """The modules of a model by path, but for another model in it that is frozen: a teacher has no
    sites.
    """
    frozen = tuple(
        f'{path}.'
        for path, module in model.named_modules()
        if path
        and isinstance(module, BaseModel)
        and not any(p.requires_grad for p in module.parameters())
    )
    for path, module in model.named_modules():
        if not f'{path}.'.startswith(frozen):
            yield path, module


def declared_sites(model: nn.Module) -> List[Tuple[str, AFANSettings]]:
    """The path of the module that declares a site, and its settings, for all sites of a model."""
    return [
        (path, settings)
        for path, module in trained_modules(model)
        for settings in declared_by(module)
    ]


class Site:
    """One site in one training step: what its adversarial passes need once the clean pass is gone.

    Attributes:
        features, context: The clean tensors, detached.
        gradients: The clean loss's gradient at each level of the feature; None where it does not
            read the level.
        feature_gradients, context_gradients: What the adversarial passes of a site add to the
            layers before it.
        shapes: Of the levels.
        joined: The later sites that this one's passes perturb too.
        clean_losses: The clean pass's losses that the tail gives again, where they are known.
        streams: Where the clean pass's random streams stood at the site, for ``draws='clean'``.
        consistency: The clean predictions, with ``objective='consistency'``, else None.
        contribution: How these enter the host's, once the host has returned.
        has_run: Whether its passes are over.
        is_read: Whether the clean loss depends on the feature. Where not, nothing is perturbed, and
            its passes count zero.
        is_joined: Whether it is such a later site of another one.
    """

    def __init__(
        self,
        name: str,
        features: Features,
        tail: Tail,
        settings: AFANSettings,
        context: Sequence[Tensor],
    ):
        self.name = name
        self.joined: List[Site] = []
        self.is_joined = False
        self.has_run = False
        self.is_read = True
        self.clean_losses: Optional[Losses] = None
        self.contribution: Optional[Contribution] = None
        self.consistency = Consistency(name) if settings.objective == 'consistency' else None
        self.tail = tail
        self.settings = settings
        self.container = type(features)
        device = self.levels_of(features)[0].device
        self.streams = RandomStreams(device) if settings.draws == 'clean' else None
        self.features = [f.detach() for f in self.levels_of(features)]
        self.context = [self._leaf(c, settings) for c in context]
        self.shapes = [tuple(f.shape) for f in self.features]
        self._versions = [t._version for t in (*self.features, *self.context)]
        self.gradients: Sequence[Optional[Tensor]] = [None] * len(self.features)
        self.feature_gradients: Sequence[Optional[Tensor]] = [None] * len(self.features)
        self.context_gradients: Sequence[Optional[Tensor]] = [None] * len(self.context)

    @property
    def group(self) -> List['Site']:
        """The sites that the passes of this one perturb, itself first."""
        return [self, *self.joined]

    def split(self, levels: Sequence[Tensor]) -> List[List[Tensor]]:
        """Tensors that stand for the levels of the whole group, by site."""
        each = iter(levels)
        return [[next(each) for _ in site.shapes] for site in self.group]

    def join(self, later: 'Site') -> None:
        """Have this site's passes perturb a later one; nothing else of that one is needed."""
        self.joined.append(later)
        later.is_joined, later.tail, later.context = True, None, []
        later.consistency = None

    def host_returned(self, losses: Any) -> None:
        """The clean pass is over.

        Args:
            losses: What the host returned; anything but a dict tells nothing of the contribution.
        """
        if self.is_joined:  # has no losses of its own
            self.clean_losses = None
        if self.clean_losses is None or self.contribution is not None:
            return
        if isinstance(losses, dict):
            self.contribution = Contribution(self.clean_losses, losses)
        self.clean_losses = {
            key: [part.detach() for part in value]
            if isinstance(value, (list, tuple))
            else value.detach()
            for key, value in self.clean_losses.items()
        }

    def as_of_host(self, losses: Losses) -> Losses:
        """What the host makes of the losses of the tail."""
        return losses if self.contribution is None else self.contribution(losses)

    @staticmethod
    def levels_of(features: Features) -> Sequence[Tensor]:
        return [features] if isinstance(features, Tensor) else features

    def pack(self, levels: Sequence[Tensor]) -> Features:
        """The levels in the structure that was tapped."""
        return levels[0] if issubclass(self.container, Tensor) else self.container(levels)

    def release(self) -> None:
        """Let go of what only the passes read: the rest of the step must not hold it."""
        self.features, self.context, self.gradients, self.tail = [], [], [], None
        if self.consistency is not None:
            self.consistency.predictions = []

    @staticmethod
    def _leaf(tensor: Tensor, settings: AFANSettings) -> Tensor:
        """A context tensor as the passes read it; one that is not detached collects its
        gradient.
        """
        if settings.context_detached or not tensor.requires_grad:
            return tensor.detach()
        # A parameter learns in the passes directly, like those of the tail.
        return tensor if tensor.is_leaf else tensor.detach().requires_grad_()

    def check(self) -> None:
        """Raise if the host overwrote what was tapped."""
        tapped = (*self.features, *self.context)
        if [t._version for t in tapped] != self._versions[: len(tapped)]:
            raise RuntimeError(
                f'A-FAN site {self.name!r}: the feature was modified in place after it was '
                'tapped, so the clean '
                'feature is lost. Make the first operation after the site out-of-place '
                '(inplace=False)'
            )
