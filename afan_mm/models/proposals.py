"""Proposals, targets and samples of a two-stage detector's clean pass, for its adversarial
passes.
"""

from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Tuple

from torch import nn

from ..isolation import replaced
from .samples import pack, unpack
from .tape import answered


class Proposals:
    """Saves the adversarial passes the RPN's anchor targets and non-maximum suppression, and the
    RoI head's assigning and sampling.

    The adversarial losses are then taken on the RoIs and anchors of the clean loss. Otherwise each
    pass proposes and samples anew, as the released code does.

    Args:
        host: A two-stage detector of mmdet.

    Raises:
        ValueError: If the host has no RPN or no RoI head that samples.
    """

    def __init__(self, host: nn.Module):
        rpn_head, roi_head = getattr(host, 'rpn_head', None), getattr(host, 'roi_head', None)
        samplers = _each(getattr(roi_head, 'bbox_sampler', None))
        if rpn_head is None or not samplers:
            raise ValueError(
                'reuse_proposals needs a two-stage detector with rpn_head and roi_head, '
                f'but got {type(host).__name__}'
            )
        assigners = _each(getattr(roi_head, 'bbox_assigner', None))
        self._methods = [
            (rpn_head, 'get_targets'),
            (rpn_head, 'predict_by_feat'),
            *((a, 'assign') for a in assigners),
            *((s, 'sample') for s in samplers),
        ]
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


def _keeping(kept: List[Any], compute: Callable) -> Callable:

    def method(*args, **kwargs):
        result = compute(*args, **kwargs)
        kept.append(pack(result))
        return result

    return method


def _each(parts: Any) -> List[Any]:
    if parts is None:
        return []
    return list(parts) if isinstance(parts, (list, tuple)) else [parts]
