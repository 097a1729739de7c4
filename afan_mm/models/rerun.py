"""A site inside one call of a method, whose tail is the rest of that call."""

from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Collection, Iterator, Optional, Sequence, Set

import torch
from torch import Tensor, nn

from ..auxiliary_norms import main_norms_run
from ..contribution import Losses
from ..settings import AFANSettings
from ..taps import gates_of, is_recording, note_clean_losses, tap
from .point import Levels, Passage
from .tape import Tape, pack


class Rerun:
    """Stands in for a method that returns losses: taps the site in the clean pass, and runs what
    comes after it again.

    Submodules that returned before the site was reached are answered from a tape when it runs
    again. A point that is reached more than once is a site the first time. Losses that do not
    depend on the site (on any of a group, for a joint one) are not given a second time.

    Args:
        root: The module that owns the method.
        compute: The method.
        passage: Where the site is, and how to perturb.
    """

    def __init__(self, root: nn.Module, compute: Callable[..., Any], passage: Passage):
        self.root = root
        self.passage = passage
        self.settings: AFANSettings = passage.settings
        self.compute = compute
        self._tape = Tape(root)
        self._arguments: Any = None
        self._checkpoint: Any = None  # inside which the site is
        self._constant_keys: Set[str] = set()

    def __call__(self, *args, **kwargs) -> Any:
        """The method's own result."""
        if not is_recording(self.settings):
            return self.compute(*args, **kwargs)
        self._arguments, self._checkpoint = pack((args, kwargs)), None
        at_site = partial(self._at_site, self.passage.method)
        with self._tape.record(self._check_outside), self.passage.replaced(at_site):
            result = self.compute(*args, **kwargs)
        self._checkpoint = None  # it holds what it was given
        if not self.has_reached_site:
            raise ValueError(
                f'{type(self.root).__name__} computes its loss without passing the A-FAN site '
                f'{self.settings.name!r}; choose another site: '
                + ', '.join(name for name, _ in self.root.named_children())
            )
        if is_recording(self.settings):  # still: gradients were off there, as in a checkpoint
            return result
        gates, elsewhere = gates_of(self.settings), set()
        losses = self.losses_of(result)
        self.see_losses(losses, lambda loss: depends_on(loss, gates, elsewhere))
        # copies: a total that the method returns beside its parts does not depend on these
        apart = {key: _copied(value) for key, value in losses.items()}
        note_clean_losses(self.settings, self._dependent(apart))
        # the host may weight its own copies in place
        losses.update({key: _copied(value) for key, value in apart.items()})
        return result

    @property
    def has_reached_site(self) -> bool:
        """Whether the clean pass, while it runs, has met the site."""
        return self._arguments is None

    def losses_of(self, result: Any) -> Losses:
        """The dict of losses in what the method returned."""
        return result

    def see_losses(self, losses: Losses, depends: Callable[[Any], bool]) -> None:
        """The clean losses are known, and which of them depend on the site."""
        self._constant_keys = {key for key, value in losses.items() if not depends(value)}

    def _at_site(self, stock: Callable, *args, **kwargs) -> Any:
        if self.has_reached_site:
            return stock(*args, **kwargs)
        before = self._tape.mark()
        feature = self.passage.reach(stock, *args, **kwargs)
        self._checkpoint = checkpoint_in_force()
        if self.passage.answers_call:
            self._tape.forget_since(before)
        self._feature = Levels(feature, self.passage.levels)
        perturbed, others = self._feature.split()
        del feature
        taped = self._tape.close(self._arguments)
        self._num_taped = len(taped)
        self._arguments = None  # the tensors in it are the context's now
        tapped = tap(self.settings.name, perturbed, self.tail, self.settings, (*taped, *others))
        return self.passage.resume(stock, self._feature.join(tapped, others), *args[1:], **kwargs)

    def _check_outside(self) -> None:
        """Before a call in the clean pass: layers after the site that share its checkpoint run
        again in the backward of a pass, where the site is not perturbed.
        """
        if self._checkpoint is not None and checkpoint_in_force() is self._checkpoint:
            raise RuntimeError(
                f'A-FAN site {self.settings.name!r} is inside activation checkpointing, which runs '
                'its layers again in the backward, where it is not perturbed. Choose a site at the '
                'end of what is checkpointed, or do not checkpoint these layers (with_cp=False)'
            )

    def tail(self, perturbed: Sequence[Tensor], *context: Tensor) -> Losses:
        """The losses of what comes after the site, from a perturbed feature; see
        :func:`~afan_mm.tap`.
        """
        taped, others = context[: self._num_taped], context[self._num_taped :]
        feature = self._feature.join(perturbed, others)
        answers: Iterator[Any] = iter([feature])
        stock = self.passage.method
        front = _Front(self.root if self.settings.context_detached else None)

        def answer(*args, **kwargs) -> Any:
            for feature in answers:
                front.end()
                return self.passage.resume(stock, feature, *args[1:], **kwargs)
            return stock(*args, **kwargs)

        with self._tape.replay(taped) as (args, kwargs), self.passage.replaced(answer), front:
            return self._dependent(self.losses_of(self.compute(*args, **kwargs)))

    def _dependent(self, losses: Losses) -> Losses:
        return {key: value for key, value in losses.items() if key not in self._constant_keys}


class _Front:
    """From entering it until its end the tail has not reached its site.

    What it computes there again, between the calls that are answered from the tape, belongs to the
    layers before the site: its batch norms are the main ones, and with a root none of its
    parameters takes part in a graph. Gradients are not switched off: a host may have set the mode
    itself before the site, and set it back after.

    Args:
        root: The module whose parameters do not learn; None for none.
    """

    def __init__(self, root: Optional[nn.Module]):
        self._root = root
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(main_norms_run())
        for parameter in self._root.parameters() if self._root is not None else ():
            if parameter.requires_grad:
                parameter.requires_grad = False
                self._stack.callback(parameter.requires_grad_)

    def end(self) -> None:
        """The site is reached."""
        self._stack.close()

    def __exit__(self, *error: Any) -> None:
        self.end()


def checkpoint_in_force() -> Optional[Callable]:
    """What names the checkpoint, not a re-entrant one, that a layer runs inside now: the function
    it keeps the layer's tensors by. None outside, and before torch could be asked.
    """
    find = getattr(torch._C._autograd, '_top_saved_tensors_default_hooks', None)
    hooks = find(False) if find is not None else None
    return hooks[0] if hooks and hooks[0].__module__ == 'torch.utils.checkpoint' else None


def _copied(loss: Any) -> Any:
    if isinstance(loss, (list, tuple)):
        return type(loss)(_copied(part) for part in loss)
    return loss.clone() if isinstance(loss, Tensor) and loss.requires_grad else loss


def depends_on(value: Any, nodes: Collection[Any], elsewhere: Optional[Set[Any]] = None) -> bool:
    """Whether a gradient of ``value`` would pass through one of some nodes of the graph.

    Args:
        value: A tensor, or a list or tuple of them; anything else depends on nothing.
        nodes: The ``grad_fn`` looked for.
        elsewhere: Nodes known not to lead there. Extended on the way, so that several questions
            about the same nodes walk every part of the graph once.
    """
    if isinstance(value, (list, tuple)):
        return any(depends_on(v, nodes, elsewhere) for v in value)
    if not isinstance(value, Tensor) or value.grad_fn is None:
        return False
    elsewhere = set() if elsewhere is None else elsewhere
    first = min(map(_created, nodes), default=0)
    seen, stack = set(), [value.grad_fn]
    while stack:
        current = stack.pop()
        if current in nodes:
            return True
        if current in seen or current in elsewhere:
            continue
        seen.add(current)
        if _created(current) < first:  # what it hangs on is older still
            continue
        stack.extend(upstream for upstream, _ in current.next_functions if upstream is not None)
    elsewhere |= seen
    return False


def _created(node: Any) -> int:
    """Which node of the graph it is in the order of their creation; 0 where torch does not say."""
    number = getattr(node, '_sequence_nr', None)  # from torch 2.1 on
    return number() if number is not None else 0
