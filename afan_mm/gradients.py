"""Gradients of a step: where a site catches those of the clean backward, how they are taken, and
averaged over the ranks.
"""

from collections import defaultdict
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.dist import all_reduce, all_reduce_params
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .auxiliary_norms import auxiliary_norms

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
MULTIPLIES_BITS = hasattr(torch.ops.aten._foreach_mul_, 'Tensor')  # from torch 2.1 on


class Gate(torch.autograd.Function):
    """Identity whose backward is handed the gradients of all levels at once, when everything after
    the site is done.

    Autograd runs nodes in the reverse order of their creation, so at that moment nothing before the
    site has run yet.
    """

    @staticmethod
    def forward(ctx: Any, on_backward: Callable, *features: Tensor) -> Tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.on_backward = on_backward
        # not view_as: the host may modify an output in place
        return tuple(f.detach() for f in features)

    @staticmethod
    def backward(ctx: Any, *gradients: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
        return (None, *ctx.on_backward(gradients))


class Carry(torch.autograd.Function):
    """Identity of a loss, whose backward begins with gradients at hand of some tensors that the
    loss depends on.

    What the backward comes to there the engine then adds to these in place as it comes, where the
    two would be held beside each other until the last of it.
    """

    @staticmethod
    def forward(ctx: Any, handed_over: Callable, loss: Tensor, *tensors: Tensor) -> Tensor:
        ctx.handed_over = handed_over  # gives the gradients, None for none, and keeps none
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Optional[Tensor], ...]:
        return (None, gradient, *ctx.handed_over())


def gradient_of(
    loss: Tensor, inputs: Sequence[Tensor], retain_graph: bool = False
) -> Sequence[Optional[Tensor]]:
    """``d loss / d inputs``, leaving every parameter's ``.grad`` alone; None where the loss does
    not depend on an input.

    Raises:
        RuntimeError: If the graph has a re-entrant checkpoint, with what to write instead.
    """
    try:
        return torch.autograd.grad(loss, inputs, retain_graph=retain_graph, allow_unused=True)
    except RuntimeError as error:
        said = str(error).lower()
        if not ('checkpoint' in said and 'compatible with .grad()' in said):
            raise
        raise RuntimeError(
            'A-FAN needs torch.autograd.grad here, which re-entrant activation checkpointing '
            '(with_cp=True) does not support. Either set with_cp=False, or keep to what the '
            'clean backward gives for free: num_steps=1, random_start=False, and detach=True '
            'where there are several sites'
        ) from error


@contextmanager
def explained(sites: Sequence[str]) -> Iterator[None]:
    """A backward inside that gets to a graph which is used up says what that means here.

    Args:
        sites: Names of those whose passes run inside; with none the error stays as it is.
    """
    try:
        yield
    except RuntimeError as error:
        if sites and type(error).__name__ == 'CheckpointError':
            raise RuntimeError(
                f'A-FAN sites {list(sites)}: layers with activation checkpointing compute '
                'something else in the backward of an adversarial pass than in its forward, as '
                'what lies before a site is not run again. Do not checkpoint the layers around '
                'the site (with_cp=False), or choose another site'
            ) from error
        if not sites or 'backward through the graph a second time' not in str(error):
            raise
        raise RuntimeError(
            f'A-FAN sites {list(sites)}: a tail reads a tensor of the clean pass by another way '
            'than its feature, as one that a module before the site keeps as an attribute, and its '
            'graph is used up. Return that tensor from its module, name it in the context of tap, '
            'or choose a site before that module'
        ) from error


def summed(theirs: Optional[Tensor], ours: Optional[Tensor]) -> Optional[Tensor]:
    """The sum of two gradients, where None is zero; it is written to the second."""
    if theirs is None or ours is None:
        return ours if theirs is None else theirs
    return ours.add_(theirs)


def without_memory(tensor: Optional[Tensor]) -> Optional[Tensor]:
    """Zeros in place of a tensor that nobody reads the values of."""
    return None if tensor is None else tensor.new_zeros(()).expand_as(tensor)


def zero_unless_(finite: Tensor, gradients: Sequence[Tensor]) -> None:
    """Let gradients count only where ``finite``, 0-dim and boolean, says so; nobody waits for it.

    Where torch has a kernel for all of them it multiplies their bits by one or zero: what is not
    finite times zero would not be zero.
    """
    kinds = defaultdict(list)
    for gradient in gradients:
        integers = INTEGERS.get(gradient.element_size()) if MULTIPLIES_BITS else None
        kinds[integers].append(gradient if integers is None else gradient.view(integers))
    for integers, each in kinds.items():
        if integers is not None:
            torch._foreach_mul_(each, finite.to(integers))
        else:
            for gradient in each:
                gradient.masked_fill_(~finite, 0)


def average_over_ranks(replicas: DistributedDataParallel) -> None:
    """What DDP's reducer does after a backward, on the gradients that all passes left in ``.grad``.

    Args:
        replicas: The model in its wrapper.
    """
    params = [p for p in replicas.module.parameters() if p.requires_grad]
    used = [True] * len(params)
    # Otherwise DDP's contract says that every rank uses all, and nothing has to be asked; but for
    # auxiliary norms, which no pass may have reached in this step.
    may_be_unused = replicas.find_unused_parameters or replicas.static_graph
    if may_be_unused or auxiliary_norms(replicas.module):
        mask = torch.tensor(
            [p.grad is not None for p in params], dtype=torch.uint8, device=params[0].device
        )
        all_reduce(mask, op='max', group=replicas.process_group)
        used = mask.tolist()
    grads: List[Tensor] = []
    for param, anywhere in zip(params, used):
        # a parameter that no rank used keeps its None, and the optimizer leaves it alone
        if anywhere:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            grads.append(param.grad)
    all_reduce_params(grads, op='mean', group=replicas.process_group)
