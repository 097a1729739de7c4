"""What a host makes of the losses of one of its parts before it adds them up.

A head returns ``loss_ce``; the host's losses have ``decode.loss_ce``, weighted as in a cascade or a
semi-supervised model, and its ``parse_losses`` may weight that name again. An adversarial loss must
enter the objective as the clean one did.
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor

Losses = Dict[str, Union[Tensor, List[Tensor]]]
Entry = Tuple[str, Optional[int]]  # a key, and an index where there is a list of losses


class Term(NamedTuple):
    """One loss of a part in one of the host's.

    Attributes:
        entry: Of the loss in those of the part.
        weight: Derivative of the (summed) host's loss with respect to it, in its shape.
        elements: Number of elements of the host's loss.
        elementwise: Whether the host's loss has its shape.
    """

    entry: Entry
    weight: Tensor
    elements: int
    elementwise: bool

    def of(self, loss: Tensor) -> Tensor:
        """The term with another value of the part's loss, of which there may be more or fewer
        elements. ``parse_losses`` takes the mean over the elements.
        """
        if self.elementwise:
            return loss * (self.weight if loss.shape == self.weight.shape else self.weight.mean())
        return loss.mean() * self.weight.sum() / self.elements


class Contribution:
    """How the losses of a part enter those of the host, found from the graph between the two.

    Where the host does anything but weight and add, this is its linear part.

    Args:
        of_part: The losses that the part returned.
        of_host: Those that the host returned in the same forward pass.
    """

    def __init__(self, of_part: Losses, of_host: Losses):
        self._known = set(of_part)
        parts = [(entry, loss) for entry, loss in _each(of_part) if loss.requires_grad]
        self._terms: Dict[str, List[List[Term]]] = {}
        self._lists = {key for key, value in of_host.items() if isinstance(value, (list, tuple))}
        for (key, _), total in _each(of_host):
            terms = _terms(total, parts) if total.requires_grad else []
            if terms:
                self._terms.setdefault(key, []).append(terms)

    def __call__(self, losses: Losses) -> Losses:
        """The host's losses that other values of the part's give; without those that do not depend
        on the part. What the part did not return before goes on as it is.
        """
        values = dict(_each(losses))
        entered = {key: loss for key, loss in losses.items() if key not in self._known}
        for key, totals in self._terms.items():
            sums = [
                sum(term.of(values[term.entry]) for term in terms if term.entry in values)
                for terms in totals
            ]
            sums = [each for each in sums if isinstance(each, Tensor)]
            if sums:
                entered[key] = sums if key in self._lists else sums[0]
        return entered


def _terms(total: Tensor, parts: List[Tuple[Entry, Tensor]]) -> List[Term]:
    if not parts:
        return []
    weights = torch.autograd.grad(
        total.sum(), [loss for _, loss in parts], retain_graph=True, allow_unused=True
    )
    return [
        Term(entry, weight, total.numel(), total.shape == loss.shape)
        for (entry, loss), weight in zip(parts, weights)
        if weight is not None
    ]


def _each(losses: Losses) -> Iterator[Tuple[Entry, Any]]:
    for key, value in losses.items():
        if isinstance(value, (list, tuple)):
            yield from (((key, index), part) for index, part in enumerate(value))
        elif isinstance(value, Tensor):
            yield (key, None), value
