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
from typing import Any, Collection, Iterator, List, Optional, Sequence

import torch
from torch import Tensor

from .consistency import Prediction
from .contribution import Losses
from .settings import AFANSettings
from .site import Features, Tail

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
        features: The clean feature (N, C, *S), or (N, *S, C) with ``channel_axis=-1``; or a list or
            tuple of such levels. All of it is perturbed.
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
    if settings.channel_axis == 1:
        return _taker.tap(name, features, tail, settings, context)

    def tail_of_first(features: Features, *context: Tensor) -> Losses:
        return tail(_moved(features, 1, -1), *context)

    first = _taker.tap(name, _moved(features, -1, 1), tail_of_first, settings, context)
    return _moved(first, 1, -1)


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


def _moved(features: Features, source: int, destination: int) -> Features:
    """Views of all levels with their channels on another axis."""
    if isinstance(features, Tensor):
        return features.movedim(source, destination)
    return type(features)([level.movedim(source, destination) for level in features])
