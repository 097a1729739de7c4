"""The host's own ``loss``, run again from a site on."""

from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from torch import Tensor, nn

from ..consistency import Prediction
from ..contribution import Losses
from ..declared import declared_by
from ..isolation import replaced
from ..taps import clean_predictions, forget_predictions, is_recording
from .point import Passage
from .rerun import Rerun
from .tape import answered, pack, unpack


class HostLoss(Rerun):
    """Does not run again the heads that compute only losses that do not depend on the site.

    Args:
        host: The model that owns the site.
        passage: See :class:`Rerun`.
        detector: The two-stage detector, host or inside it, that keeps the proposals, targets and
            samples of the clean pass; None for one that proposes and samples anew.
    """

    def __init__(self, host: nn.Module, passage: Passage, detector: Optional[nn.Module]):
        super().__init__(host, host.loss, passage)
        self._heads = [
            m
            for m in _children(host)
            if m is not passage.point.owner and callable(getattr(m, 'loss', None))
        ]
        self._head_losses: Dict[nn.Module, List[Losses]] = {head: [] for head in self._heads}
        self._head_predictions: Dict[nn.Module, List[Prediction]] = {h: [] for h in self._heads}
        self._proposals = None if detector is None else Proposals(detector)
        self._constant_heads: List[nn.Module] = []

    def __call__(self, *args, **kwargs) -> Losses:
        """The host's own losses."""
        if not is_recording(self.settings):
            return self.compute(*args, **kwargs)
        with ExitStack() as stack:
            for head in self._heads:
                stack.enter_context(replaced(head, loss=self._recorded(head)))
            if self._proposals is not None:
                stack.enter_context(self._proposals.record())
            return super().__call__(*args, **kwargs)

    def see_losses(self, losses: Losses, depends: Callable[[Any], bool]) -> None:
        """See :class:`Rerun`; those of each head tell which heads need not run again."""
        super().see_losses(losses, depends)
        self._constant_heads = [
            head
            for head, calls in self._head_losses.items()
            if calls
            and not any(depends(list(call.values())) for call in calls)
            and not (self.settings.joint and _has_joint_site(head))
        ]
        for head in self._constant_heads:
            forget_predictions(self.settings, self._head_predictions[head])
        self._head_losses.clear()
        self._head_predictions.clear()

    def tail(self, perturbed: Sequence[Tensor], *context: Tensor) -> Losses:
        """See :class:`Rerun`; without the heads whose losses are constant."""
        with ExitStack() as stack:
            for head in self._constant_heads:
                stack.enter_context(replaced(head, loss=lambda *args, **kwargs: {}))
            if self._proposals is not None:
                stack.enter_context(self._proposals.replay())
            return super().tail(perturbed, *context)

    def _recorded(self, head: nn.Module) -> Callable:
        stock = head.loss

        def loss(*args, **kwargs) -> Any:
            before = len(clean_predictions(self.settings))
            losses = stock(*args, **kwargs)
            # a head that answers in another form is not left out
            if self.has_reached_site and isinstance(losses, dict):
                self._head_losses[head].append(losses)
                self._head_predictions[head] += clean_predictions(self.settings)[before:]
            return losses

        return loss


def _has_joint_site(module: nn.Module) -> bool:
    return any(s.joint for part in module.modules() for s in declared_by(part))


def _children(host: nn.Module) -> Iterator[nn.Module]:
    for child in host.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield child


class Proposals:
    """Saves the adversarial passes the RPN's anchor targets and non-maximum suppression, and the
    RoI head's assigning and sampling.

    The adversarial losses are then taken on the RoIs and anchors of the clean loss. Otherwise each
    pass proposes and samples anew, as the released code does.

    Args:
        detector: A two-stage detector of mmdet.

    Raises:
        ValueError: See :func:`proposing`.
    """

    def __init__(self, detector: nn.Module):
        self._methods = proposing(detector)
        self._results: Dict[Tuple[int, str], List[Any]] = {}

    @contextmanager
    def record(self) -> Iterator[None]:
        """Inside, results are kept as well as returned."""
        with ExitStack() as stack:
            for owner, name in self._methods:
                kept = self._results[id(owner), name] = []
                stack.enter_context(replaced(owner, **{name: _keeping(kept, getattr(owner, name))}))
            yield

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Inside, the kept results are returned, in their order."""
        with ExitStack() as stack:
            for owner, name in self._methods:
                results = [unpack(result) for result in self._results[id(owner), name]]
                stack.enter_context(
                    replaced(owner, **{name: answered(results, getattr(owner, name))})
                )
            yield


def proposing(detector: nn.Module) -> List[Tuple[Any, str]]:
    """The methods of a two-stage detector that propose, assign and sample, with their owners.

    Raises:
        ValueError: If it has no RPN or no RoI head that samples.
    """
    rpn_head, roi_head = (getattr(detector, part, None) for part in ('rpn_head', 'roi_head'))
    samplers = _each(getattr(roi_head, 'bbox_sampler', None))
    if rpn_head is None or not samplers:
        raise ValueError(
            'reuse_proposals needs a two-stage detector with rpn_head and roi_head, '
            f'but got {type(detector).__name__}'
        )
    assigners = _each(getattr(roi_head, 'bbox_assigner', None))
    methods = [
        (rpn_head, 'get_targets'),
        (rpn_head, 'predict_by_feat'),
        *((a, 'assign') for a in assigners),
        *((s, 'sample') for s in samplers),
    ]
    # proposals that are learned have no targets
    return [(owner, name) for owner, name in methods if hasattr(owner, name)]


def _keeping(kept: List[Any], compute: Callable) -> Callable:

    def method(*args, **kwargs) -> Any:
        result = compute(*args, **kwargs)
        kept.append(pack(result))
        return result

    return method


def _each(parts: Any) -> List[Any]:
    if parts is None:
        return []
    return list(parts) if isinstance(parts, (list, tuple)) else [parts]
