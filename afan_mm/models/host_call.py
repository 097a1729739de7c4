"""The host's own ``loss``, run again from a site on."""

from contextlib import ExitStack
from typing import Any, Callable, Dict, Iterator, List, Sequence

from torch import Tensor, nn

from ..isolation import replaced
from ..session import is_recording
from ..settings import AFANSettings
from ..site import Losses
from .proposals import Proposals
from .rerun import Point, Rerun


class HostCall(Rerun):
    """Does not run again the heads that compute only losses that do not depend on the site.

    Args:
        host: The model that owns the site.
        point, settings, levels: See :class:`Rerun`.
        reuse_proposals: Whether a two-stage detector keeps the proposals, targets and samples of
            the clean pass.
    """

    def __init__(
        self,
        host: nn.Module,
        point: Point,
        settings: AFANSettings,
        levels: Sequence[int],
        reuse_proposals: bool,
    ):
        super().__init__(host, host.loss, point, settings, levels)
        self._heads = [
            m
            for m in _children(host)
            if m is not point.owner and callable(getattr(m, 'loss', None))
        ]
        self._head_losses: Dict[nn.Module, List[Losses]] = {head: [] for head in self._heads}
        self._proposals = Proposals(host) if reuse_proposals else None
        self._constant_heads: List[nn.Module] = []

    def __call__(self, *args, **kwargs) -> Losses:
        """The host's own losses."""
        if not is_recording(self.settings):
            return self._compute(*args, **kwargs)
        with ExitStack() as stack:
            for head in self._heads:
                stack.enter_context(replaced(head, loss=self._recorded(head)))
            if self._proposals is not None:
                stack.enter_context(self._proposals.record())
            return super().__call__(*args, **kwargs)

    def _see_losses(self, losses: Losses, depends: Callable[[Any], bool]) -> None:
        super()._see_losses(losses, depends)
        self._constant_heads = [
            head
            for head, calls in self._head_losses.items()
            if calls and not any(depends(list(call.values())) for call in calls)
        ]
        self._head_losses.clear()

    def _tail(self, perturbed: Sequence[Tensor], *context: Tensor) -> Losses:
        with ExitStack() as stack:
            for head in self._constant_heads:
                stack.enter_context(replaced(head, loss=lambda *args, **kwargs: {}))
            if self._proposals is not None:
                stack.enter_context(self._proposals.replay())
            return super()._tail(perturbed, *context)

    def _recorded(self, head: nn.Module) -> Callable:
        stock = head.loss

        def loss(*args, **kwargs):
            losses = stock(*args, **kwargs)
            # a head that answers in another form is not left out
            if self._gate is not None and isinstance(losses, dict):
                self._head_losses[head].append(losses)
            return losses

        return loss


def _children(host: nn.Module) -> Iterator[nn.Module]:
    for child in host.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield child
