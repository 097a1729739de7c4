"""Questions to an autograd graph."""

from typing import Any, Optional, Set

from torch import Tensor


def depends_on(value: Any, node: Any, elsewhere: Optional[Set[Any]] = None) -> bool:
    """Whether a gradient of ``value`` would pass through a node of the graph.

    Args:
        value: A tensor, or a list or tuple of them; anything else depends on nothing.
        node: The ``grad_fn`` looked for.
        elsewhere: Nodes known not to lead there. Extended on the way, so that several questions
            about one node walk every part of the graph once.
    """
    if isinstance(value, (list, tuple)):
        return any(depends_on(v, node, elsewhere) for v in value)
    if not isinstance(value, Tensor) or value.grad_fn is None:
        return False
    elsewhere = set() if elsewhere is None else elsewhere
    seen, stack = set(), [value.grad_fn]
    while stack:
        current = stack.pop()
        if current is node:
            return True
        if current in seen or current in elsewhere:
            continue
        seen.add(current)
        stack.extend(upstream for upstream, _ in current.next_functions if upstream is not None)
    elsewhere |= seen
    return False
