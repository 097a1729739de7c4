"""The Hessian of a loss with respect to weights, as a linear operator."""

from contextlib import contextmanager
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
)

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

# Of the functions of mmcv.ops only these have a backward that is itself differentiable. Some of the
# others do not say that theirs is not, and would leave their part out of a product in silence.
TWICE_DIFFERENTIABLE = ('UpFirDn2d', 'BiasAct', 'FusedBiasLeakyReLU', 'FilteredLReLU', 'Conv2d')


class Tail(NamedTuple):
    """The parameters whose second derivatives autograd can compute.

    Attributes:
        names: Of these parameters.
        before: Of those that the loss reads through an operator without double backward.
        unused: Of those that the loss does not read.
        operators: Names of these operators.
        every: All names that were asked for; each of the lists above keeps their order.
    """

    names: List[str]
    before: List[str]
    unused: List[str]
    operators: List[str]
    every: List[str]


class HessianOperator(LinearOperator):
    """Products of the Hessian of a mean of losses with vectors, by double backward (Pearlmutter,
    1994).

    Memory is that of one double backward on one batch, whatever the number of products.

    Args:
        losses: Each called without arguments for one term, a 0-dim tensor with its graph; the same
            number in every call.
        parameters: The P weights, in one or several tensors.
        weights: Of the terms in the mean. Defaults to None, equal ones.

    Attributes:
        shape: (P, P).
        products: How many were computed.
    """

    def __init__(
        self,
        losses: Sequence[Callable[[], Tensor]],
        parameters: Sequence[Tensor],
        weights: Optional[Sequence[float]] = None,
    ):
        self.losses = list(losses)
        self.parameters = list(parameters)
        self.weights = [1 / len(self.losses)] * len(self.losses) if weights is None else weights
        self.products = 0
        size = sum(parameter.numel() for parameter in self.parameters)
        super().__init__(dtype=np.dtype(np.float64), shape=(size, size))

    @property
    def precision(self) -> np.dtype:
        """That of the weights, in which a product is computed."""
        return torch.empty(0, dtype=self.parameters[0].dtype).numpy().dtype

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        """H v: (P,) or (P, 1) to (P,)."""
        self.products += 1
        parts = self._split(vector.ravel())
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        with torch.enable_grad():
            for loss, weight in zip(self.losses, self.weights):
                for part, product in zip(total, self._product(loss(), parts)):
                    if product is not None:
                        part.add_(product, alpha=weight)
        flat = torch.cat([part.reshape(-1) for part in total])
        return flat.cpu().numpy().astype(np.float64)

    _rmatvec = _matvec  # symmetric

    def _product(self, loss: Tensor, parts: List[Tensor]) -> Sequence[Optional[Tensor]]:
        nothing = [None] * len(parts)
        if not loss.requires_grad:
            return nothing
        gradients = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)
        terms = [(g * v).sum() for g, v in zip(gradients, parts) if g is not None]
        along = sum(terms)
        if not terms or not along.requires_grad:  # linear in the weights
            return nothing
        return torch.autograd.grad(along, self.parameters, allow_unused=True)

    def _split(self, vector: np.ndarray) -> List[Tensor]:
        like = self.parameters[0]
        whole = torch.from_numpy(np.ascontiguousarray(vector)).to(like.device, like.dtype)
        pieces = whole.split([parameter.numel() for parameter in self.parameters])
        return [piece.view_as(parameter) for piece, parameter in zip(pieces, self.parameters)]


def find_tail(loss: Tensor, parameters: Dict[str, Tensor]) -> Tail:
    """Which parameters a loss reads without an operator that can be differentiated only once.

    An operator such as mmcv's RoIAlign has a backward that autograd cannot differentiate again. For
    a parameter before it (a detector's backbone and neck) no exact product exists; for one after it
    (the box head) or beside it (the RPN's head) the operator is a constant, and it does.

    Args:
        loss: With its graph.
        parameters: By name; those that require no gradient count as unused.
    """
    nodes = _upstream([loss.grad_fn])
    once = [node for node in nodes if _differentiable_once(node)]
    before = _upstream(parent for node in once for parent, _ in node.next_functions)

    def leaves(found: Set[Any]) -> Set[int]:
        return {id(node.variable) for node in found if hasattr(node, 'variable')}

    read, blocked = leaves(nodes), leaves(before)
    names: Dict[str, List[str]] = dict(names=[], before=[], unused=[])
    for name, parameter in parameters.items():
        where = 'before' if id(parameter) in blocked else 'names'
        names[where if id(parameter) in read else 'unused'].append(name)
    return Tail(**names, operators=sorted({_name(node) for node in once}), every=list(parameters))


def merge_tails(tails: Sequence[Tail]) -> Tail:
    """The tail for several losses: a parameter is in it if it is before no operator in any."""
    before = {name for tail in tails for name in tail.before}
    read = {name for tail in tails for name in tail.names} - before
    operators = sorted({name for tail in tails for name in tail.operators})
    every = tails[0].every
    return Tail(
        [name for name in every if name in read],
        [name for name in every if name in before],
        [name for name in every if name not in read | before],
        operators,
        every,
    )


def twice_differentiable_attention() -> ContextManager:
    """Inside, torch's ``scaled_dot_product_attention`` is computed by its formula: the backward of
    its fused kernels cannot be differentiated again.
    """
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel  # torch 2.3 or newer
    except ImportError:
        return torch.backends.cuda.sdp_kernel(enable_flash=False, enable_mem_efficient=False)
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def only_trained(parameters: Dict[str, Tensor], names: Sequence[str]) -> Iterator[None]:
    """Gradients for some of the parameters alone inside: no graph is kept for the others."""
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    kept = set(names)
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in kept)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])


def _upstream(start: Any) -> Set[Any]:
    """All nodes of the graph from which these get their values, themselves included."""
    seen: Set[Any] = set()
    stack = [node for node in start if node is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    return seen


def _differentiable_once(node: Any) -> bool:
    function = getattr(node, '_forward_cls', None)
    if function is None:
        return 'vision::ops' in node.name()  # torchvision's own, in C++
    if function.__module__.startswith('mmcv.ops'):
        return not function.__name__.startswith(TWICE_DIFFERENTIABLE)
    # torch's decorator `once_differentiable` puts a wrapper of its own module around a backward
    return function.backward.__globals__['__name__'] == 'torch.autograd.function' and hasattr(
        function.backward, '__wrapped__'
    )


def _name(node: Any) -> str:
    function = getattr(node, '_forward_cls', None)
    return node.name() if function is None else function.__name__
