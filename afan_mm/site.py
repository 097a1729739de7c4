"""One site in one training step."""

from typing import Callable, Dict, List, Optional, Sequence, Union

from torch import Tensor

from .settings import AFANSettings

Features = Union[Tensor, Sequence[Tensor]]
Losses = Dict[str, Union[Tensor, List[Tensor]]]
Tail = Callable[..., Losses]


class Site:
    """One site in one training step: what its adversarial passes need once the clean pass is gone.

    Attributes:
        features, context: The clean tensors, detached.
        gradients: The clean loss's gradient at each level of the feature; None where it does not
            read the level.
        feature_gradients, context_gradients: What the adversarial passes of a site add to the
            layers before it.
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
        self.tail = tail
        self.settings = settings
        self.container = type(features)
        self.features = [f.detach() for f in self.levels_of(features)]
        self.context = [self._leaf(c, settings) for c in context]
        self._versions = [t._version for t in (*self.features, *self.context)]
        self.gradients: Sequence[Optional[Tensor]] = [None] * len(self.features)
        self.feature_gradients: Sequence[Optional[Tensor]] = [None] * len(self.features)
        self.context_gradients: Sequence[Optional[Tensor]] = [None] * len(self.context)

    @staticmethod
    def levels_of(features: Features) -> Sequence[Tensor]:
        return [features] if isinstance(features, Tensor) else features

    def pack(self, levels: Sequence[Tensor]) -> Features:
        """The levels in the structure that was tapped."""
        return levels[0] if issubclass(self.container, Tensor) else self.container(levels)

    def release(self) -> None:
        """Let go of what only the passes read: the rest of the step must not hold it."""
        self.features, self.context, self.gradients, self.tail = [], [], [], None

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
        if [t._version for t in (*self.features, *self.context)] != self._versions:
            raise RuntimeError(
                f'A-FAN site {self.name!r}: the feature was modified in place after it was '
                'tapped, so the clean '
                'feature is lost. Make the first operation after the site out-of-place '
                '(inplace=False)'
            )
