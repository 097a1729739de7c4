"""The host's own ``loss``, recorded in the clean pass so that it can run again on other features."""
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Set

from torch import Tensor, nn

from ..graph import depends_on
from ..isolation import replaced

Losses = Dict[str, Any]


class HostCall:
    """One call of ``host.loss``.

    Recording asks of the host that it computes its loss from ``extract_feat``, called once, and that ``extract_feat`` returns
    what its neck returned.

    Args:
        host: The model that owns the neck.
        neck: Its neck.
    """

    def __init__(self, host: nn.Module, neck: nn.Module):
        self.host = host
        self._loss = host.loss
        self._extract_feat = host.extract_feat
        self._heads = [m for m in _children(host) if m is not neck and callable(getattr(m, 'loss', None))]
        self._head_losses: Dict[nn.Module, List[Losses]] = {head: [] for head in self._heads}
        self._extracting = False
        self._gate: Any = None
        self._returned: Any = None
        self._call: Any = None
        self._constant_keys: Set[str] = set()
        self._constant_heads: List[nn.Module] = []

    @contextmanager
    def record(self) -> Iterator['HostCall']:
        """Inside, the host's ``loss`` leaves behind how it was called and what does not depend on the site."""
        with ExitStack() as stack:
            stack.enter_context(replaced(self.host, loss=self._recorded_loss, extract_feat=self._recorded_extract_feat))
            for head in self._heads:
                stack.enter_context(replaced(head, loss=self._recorded_head(head)))
            yield self

    def see_site(self, tapped: Tensor, returned: Any) -> None:
        """The neck has been reached, goes on with ``tapped``, and will return ``returned``."""
        if self._call is None or not self._extracting:
            name = type(self.host).__name__
            raise ValueError(f'AFANNeckWrapper needs a host whose loss calls extract_feat, but {name} reaches its neck without. '
                             f'Give {name} an extract_feat that its loss calls, or tap the feature in its own code (afan_mm.tap)')
        self._gate = tapped.grad_fn
        self._returned = returned

    def losses(self, features: Callable[[], Any]) -> Losses:
        """The losses that depend on the site, on other features.

        Args:
            features: Makes what ``extract_feat`` is to answer.
        """
        with ExitStack() as stack:
            stack.enter_context(replaced(self.host, extract_feat=lambda *args, **kwargs: features()))
            for head in self._constant_heads:
                stack.enter_context(replaced(head, loss=lambda *args, **kwargs: {}))
            args, kwargs = self._call
            losses = self._loss(*args, **kwargs)
        return {key: value for key, value in losses.items() if key not in self._constant_keys}

    def _recorded_loss(self, *args, **kwargs) -> Losses:
        self._call = (args, kwargs)
        losses = self._loss(*args, **kwargs)
        if self._gate is not None:
            elsewhere: Set[Any] = set()
            self._constant_keys = {key for key, value in losses.items() if not depends_on(value, self._gate, elsewhere)}
            self._constant_heads = [
                head for head, calls in self._head_losses.items()
                if calls and not any(depends_on(list(call.values()), self._gate, elsewhere) for call in calls)
            ]
        self._gate = None
        self._head_losses.clear()
        return losses

    def _recorded_extract_feat(self, *args, **kwargs) -> Any:
        self._extracting = True
        try:
            features = self._extract_feat(*args, **kwargs)
            if self._returned is not None and not _same_tensors(features, self._returned):
                raise ValueError(f'AFANNeckWrapper answers extract_feat with what the neck returned, but that of '
                                 f'{type(self.host).__name__} returns something else. Tap the feature in its own code (afan_mm.tap)')
            return features
        finally:
            self._extracting = False
            self._returned = None

    def _recorded_head(self, head: nn.Module) -> Callable:
        stock = head.loss

        def loss(*args, **kwargs):
            losses = stock(*args, **kwargs)
            if isinstance(losses, dict):  # a head that answers in another form is not left out
                self._head_losses[head].append(losses)
            return losses

        return loss


def _same_tensors(first: Any, second: Any) -> bool:
    first, second = ([f] if isinstance(f, Tensor) else list(f) for f in (first, second))
    return len(first) == len(second) and all(a is b for a, b in zip(first, second))


def _children(host: nn.Module) -> Iterator[nn.Module]:
    for child in host.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield child
