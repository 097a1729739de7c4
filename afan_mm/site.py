"""A site in one training step: the clean feature, its tail, and what they still need."""

from typing import Any, Callable, Iterator, List, Optional, Sequence, Union

import torch
from torch import Tensor

from .consistency import Consistency
from .contribution import Contribution, Losses
from .gradients import Carry, Gate, without_memory
from .isolation import RandomStreams
from .norms import Radius
from .settings import AFANSettings

Features = Union[Tensor, Sequence[Tensor]]
Tail = Callable[..., Losses]


class Site:
    """One site in one training step: what its adversarial passes need once the clean pass is gone.

    Attributes:
        features, context: The clean tensors, detached.
        units: What epsilon is measured in at each level; None where it is still to be found.
        gradients: The clean loss's gradient at each level of the feature; None where it does not
            read the level.
        feature_gradients: What the layers before the site are to learn from, as far as it is known:
            from the clean loss and the adversarial passes so far.
        context_gradients: What the adversarial passes add to that of the context.
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
        self._versions = [version(t) for t in (*self.features, *self.context)]
        self.units: Sequence[Optional[Radius]] = [None] * len(self.features)
        self.gradients: Sequence[Optional[Tensor]] = [None] * len(self.features)
        self.feature_gradients: Sequence[Optional[Tensor]] = [None] * len(self.features)
        self.context_gradients: Sequence[Optional[Tensor]] = [None] * len(self.context)

    @property
    def group(self) -> List['Site']:
        """The sites that the passes of this one perturb, itself first."""
        return [self, *self.joined]

    @property
    def holds_backward(self) -> bool:
        """Whether the clean backward waits for its passes before it enters the layers before it."""
        return self.settings.within_backward and not self.is_joined

    def split(self, levels: Sequence[Tensor]) -> List[List[Tensor]]:
        """Tensors that stand for the levels of the whole group, by site."""
        each = iter(levels)
        return [[next(each) for _ in site.shapes] for site in self.group]

    def join(self, later: 'Site') -> None:
        """Have this site's passes perturb a later one; nothing else of that one is needed."""
        self.joined.append(later)
        later.is_joined, later.tail, later.context = True, None, []
        later.consistency = None

    def measured(self, units: Sequence[Radius]) -> None:
        """Let go of the clean feature of a later site, whose passes perturb the feature that they
        meet.

        Args:
            units: Of each level the unit of its epsilon, all that the direction needs of it.
        """
        self.units = units
        self.features = [without_memory(f) for f in self.features]
        self._versions = [version(f) for f in self.features]

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
        if issubclass(self.container, Tensor):
            return levels[0]
        named = hasattr(self.container, '_fields')
        return self.container(*levels) if named else self.container(levels)

    def handed_over(self) -> Iterator[Optional[Tensor]]:
        """The gradients, which the site lets go of: each is as large as its level."""
        gradients, self.gradients = self.gradients, []
        yield from gradients

    def enter(self, levels: Sequence[Tensor]) -> Sequence[Tensor]:
        """What a pass goes on with in place of these levels, whose gradient becomes
        ``feature_gradients``; the levels themselves where the layers before the site do not
        learn from it.

        A leaf would keep a level until the pass is over; so only the graph holds it.
        """
        if self.settings.detach:
            return levels
        # something must ask for the gradient of levels that do not
        asking = torch.zeros((), requires_grad=True)
        return Gate.apply(self._collect, *levels, asking)[:-1]

    def _collect(self, gradients: Sequence[Optional[Tensor]]) -> List[None]:
        before = self.feature_gradients or [None] * len(gradients)
        self.feature_gradients = [
            theirs if ours is None else ours if theirs is None else ours + theirs
            for theirs, ours in zip(gradients[:-1], before)
        ]
        return [None] * len(gradients)

    def carried(self, loss: Tensor, entered: Sequence[Tensor]) -> Tensor:
        """The loss of a pass; its backward adds to ``feature_gradients`` as it goes, where they
        would otherwise be held until its end.

        But not where nothing is perturbed: half of a gradient and half of it are the gradient, to
        the bit, and so such passes are stock training, if both are summed up before.

        Args:
            loss: Of a pass.
            entered: The levels that it entered with.
        """
        is_control = self.settings.perturbation == 'none'
        known = any(gradient is not None for gradient in self.feature_gradients)
        if self.settings.detach or is_control or not known:
            return loss
        return Carry.apply(self._hand_over, loss, *entered)

    def _hand_over(self) -> Sequence[Optional[Tensor]]:
        gradients, self.feature_gradients = self.feature_gradients, []
        return gradients

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
        if [version(t) for t in tapped] != self._versions[: len(tapped)]:
            raise RuntimeError(
                f'A-FAN site {self.name!r}: the feature was modified in place after it was '
                'tapped, so the clean '
                'feature is lost. Make the first operation after the site out-of-place '
                '(inplace=False)'
            )


def version(tensor: Tensor) -> int:
    """How often a tensor has been written to; torch does not count for one of inference mode."""
    return 0 if tensor.is_inference() else tensor._version
