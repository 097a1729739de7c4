"""The divergence from the clean prediction in place of the loss on the labels
(``objective='consistency'``).

In a pass of such a site each softmax cross entropy that the tail takes, by
:func:`torch.nn.functional.cross_entropy`, is answered with KL(clean prediction || prediction) of
the same logits, as in virtual adversarial training (Miyato et al. 2018) and TRADES (Zhang et al.
2019). The clean prediction is what the same cross entropy read in the clean pass, without gradient.
The host goes on with the divergence as with its cross entropy: what it ignores counts nothing, and
``loss_weight``, class weights, weights of RoIs and the mean it takes are the same. Whatever else is
in the tail's objective (Dice, boxes, masks) does not count in these passes.

Shapes: logits (N, C, *S); labels (N, *S), or (N, C, *S) where they are probabilities.
"""

import sys
from contextlib import ExitStack, contextmanager
from typing import (
    Any,
    Callable,
    Collection,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .functional import full_precision
from .isolation import replaced


def divergence(clean: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(logits)) at each position, (N, *S).

    Args:
        clean: Logits of the clean prediction, (N, C, *S).
        logits: Those that are compared with it.
    """
    expected, found = (full_precision(each).log_softmax(1) for each in (clean, logits))
    return F.kl_div(found, expected, reduction='none', log_target=True).sum(1)


def shares(labels: Tensor, weight: Optional[Tensor], ignore_index: int, like: Tensor) -> Tensor:
    """How much each position counts in a cross entropy, (N, *S): nothing where it is ignored, else
    one, or the weight of its class.

    Args:
        labels: (N, *S), or (N, C, *S) for probabilities, of which none are ignored.
        weight: Of the classes, (C,), or None.
        ignore_index: Label of what is ignored.
        like: A tensor of the shape, type and device of the result.
    """
    if labels.shape != like.shape:
        if weight is None:
            return torch.ones_like(like)
        return (weight.reshape(-1, *[1] * (labels.dim() - 2)) * labels).sum(1).to(like)
    valid = labels != ignore_index
    if weight is None:
        return valid.to(like)
    return weight[labels.where(valid, torch.zeros_like(labels))].to(like) * valid


class Prediction(NamedTuple):
    """What one cross entropy of the clean pass has read, detached."""

    logits: Tensor
    labels: Tensor


class Consistency:
    """The clean predictions after a site in one step, and what its passes found of them.

    Args:
        name: Of the site.

    Attributes:
        predictions: In the order in which the tail reads them.
        listens: Whether the tail's part of the clean pass is still running.
        is_counted: Whether a divergence was in the objective of a pass.
        same_labels: Whether all passes had the labels of the clean one; once there were passes, a
            0-dim tensor.
    """

    def __init__(self, name: str):
        self.name = name
        self.predictions: List[Prediction] = []
        self.listens = True
        self.is_counted = False
        self.same_labels: Union[bool, Tensor] = True

    def forget(self, predictions: Collection[Prediction]) -> None:
        """Leave out what the tail will not read again."""
        gone = set(map(id, predictions))
        self.predictions = [each for each in self.predictions if id(each) not in gone]

    def check(self, owners: Sequence[nn.Module]) -> None:
        """Raise where the passes of a site had no divergence, or one between positions that do not
        stand for the same. Waits for the device.

        Args:
            owners: The module that declares the site, or none.
        """
        owner = f'of {type(owners[0]).__name__}' if owners else 'that no module has as its afan'
        site, advice = f'A-FAN site {self.name!r} {owner}', "Write objective='loss' there"
        if not self.is_counted:
            raise ValueError(
                f"{site}: objective='consistency' is allowed where the tail has class logits in a "
                'softmax cross entropy (CrossEntropyLoss without use_sigmoid, or any other use of '
                f'torch.nn.functional.cross_entropy), but this one has none. {advice}'
            )
        if not self.same_labels:
            raise ValueError(
                f"{site}: objective='consistency' is allowed where the labels of the logits are "
                'the same in every pass, but an adversarial pass had others than the clean one: '
                f'its tail samples or matches anew. {advice}'
            )


def _operands(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tuple[Tensor, Tensor]:
    """Logits and labels of a call of a cross entropy."""
    return input, target


class _Noting(TorchFunctionMode):
    def __init__(self, listening: Callable[[], List[Consistency]]):
        self._listening = listening

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: Optional[dict] = None
    ) -> Any:
        if func is F.cross_entropy:
            operands = _operands(*args, **(kwargs or {}))
            prediction = Prediction(*(tensor.detach() for tensor in operands))
            for consistency in self._listening():
                if consistency.listens:
                    consistency.predictions.append(prediction)
        return func(*args, **(kwargs or {}))


class Divergences(TorchFunctionMode):
    """A pass: cross entropies give divergences from the clean predictions.

    Args:
        consistency: The clean predictions.
    """

    def __init__(self, consistency: Consistency):
        self._consistency = consistency
        self._clean = iter(consistency.predictions)
        self._terms: List[Tuple[Tensor, Tensor]] = []  # what the host is given, and the divergence

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence = (), kwargs: Optional[dict] = None
    ) -> Any:
        if func is F.cross_entropy:
            return self._instead(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _instead(
        self,
        input: Tensor,
        target: Tensor,
        weight: Optional[Tensor] = None,
        size_average: Optional[bool] = None,
        ignore_index: int = -100,
        reduce: Optional[bool] = None,
        reduction: str = 'mean',
        **others: Any,  # such as label smoothing: the labels themselves are not read
    ) -> Tensor:
        each = divergence(self._next(input, target), input)
        share = shares(target, weight, ignore_index, each)
        each = share * torch.where(share > 0, each, torch.zeros_like(each))
        # The host is given a leaf, at which `objective` reads what it made of it.
        given = each.detach().requires_grad_()
        self._terms.append((given, each))
        if size_average is not None or reduce is not None:  # what `reduction` was once
            reduction = 'none' if reduce is False else 'sum' if size_average is False else 'mean'
        if reduction == 'none':
            return given
        if reduction == 'sum':
            return given.sum()
        # as torch's mean, but for zero where all are ignored
        count = share.sum() if target.shape == share.shape else torch.ones_like(share).sum()
        return given.sum() / count.clamp(min=torch.finfo(count.dtype).tiny)

    def _next(self, logits: Tensor, labels: Tensor) -> Tensor:
        clean = next(self._clean, None)
        if clean is None or clean.logits.shape != logits.shape:
            raise RuntimeError(
                f"A-FAN site {self._consistency.name!r}: objective='consistency' is allowed where "
                'the cross entropies of the tail are the same in every pass, but one of logits '
                f'{tuple(logits.shape)} stands where the clean pass had '
                f'{"none" if clean is None else tuple(clean.logits.shape)}. '
                + (
                    "Write objective='loss' there"
                    if self._consistency.predictions
                    else 'Probably no module declares the site by its attribute afan'
                )
            )
        self._consistency.same_labels = (
            labels == clean.labels
        ).all() & self._consistency.same_labels
        return clean.logits

    def objective(self, total: Tensor) -> Tensor:
        """The divergences, each with its weight in the host's objective of the pass.

        Args:
            total: That objective, 0-dim. Where no divergence is in it (a batch without RoIs), it is
                multiplied by zero, so that all ranks still have a backward.
        """
        weights: Sequence[Optional[Tensor]] = []
        if self._terms and total.requires_grad:
            weights = torch.autograd.grad(total, [g for g, _ in self._terms], allow_unused=True)
        terms = [(w * each).sum() for w, (_, each) in zip(weights, self._terms) if w is not None]
        self._consistency.is_counted |= bool(terms)
        return torch.stack(terms).sum() if terms else 0 * total


@contextmanager
def note(model: nn.Module, listening: Callable[[], List[Consistency]]) -> Iterator[None]:
    """Inside, the clean pass of a model tells the clean predictions.

    Args:
        model: The host.
        listening: Gives those of the sites that have been tapped by then.
    """
    with _by_torch(model), _Noting(listening):
        yield


@contextmanager
def compare(
    model: nn.Module, consistency: Optional[Consistency]
) -> Iterator[Optional[Divergences]]:
    """Inside, a pass of a site takes divergences; nothing happens where its ``consistency`` is
    None.
    """
    if consistency is None:
        yield None
        return
    with _by_torch(model), Divergences(consistency) as divergences:
        yield divergences


@contextmanager
def _by_torch(model: nn.Module) -> Iterator[None]:
    """Inside, mmpretrain's cross entropy with soft labels (``use_soft``, as for label smoothing and
    Mixup) is taken by torch's function too, as its hard one is, which takes such labels as well.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if getattr(module, 'use_soft', False) and hasattr(module, 'cls_criterion'):
                hard = sys.modules[type(module).__module__].cross_entropy
                stack.enter_context(replaced(module, cls_criterion=hard))
        yield
