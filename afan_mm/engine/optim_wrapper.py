"""The training step: an optim wrapper that runs the adversarial passes beside the host's own
backward.
"""

from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, Optional, Set, Union

import torch
from mmengine.dist import get_rank
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..declared import declared_sites
from ..functional import all_finite
from ..gradients import zero_unless_
from ..health import Health
from ..isolation import replaced
from ..joint import complement
from ..ranks import raise_on_all
from ..session import Session
from ..steering import Steering
from ..utils.checks import check_number
from ..utils.models import unwrapped


class AFANOptimMixin:
    """What the two A-FAN optim wrappers share, in front of a stock optim wrapper.

    ``optim_context`` records the sites that the clean forward taps; ``backward`` runs the clean
    backward and the adversarial passes of these sites. The host's ``train_step`` and everything
    else of the stock wrapper stay as they are.

    Args:
        afan_seed: Seed of strengths, noise, and dropout in the adversarial passes. Together with
            the iteration and the rank it determines them, so a resumed run continues as the
            uninterrupted one. Defaults to 0.
        clean_weight: Weight of the clean loss in the objective; or 'complement', for what the
            weights of the adversarial losses of all sites that the model declares leave of one, so
            that a learning rate keeps its meaning (not the paper's). Losses that are in no site's
            tail, such as an RPN's beside a site of RoIs, have this weight too. Defaults to 1
            (Eq. 6); the released code has others.
        kwargs: Arguments of the stock optim wrapper.

    Attributes:
        clean_weight: As given; 'complement' becomes a number with the first step.
        epsilon_scale: Factor on every site's epsilon; :class:`~afan_mm.AFANHook` warms it
            up.
        health: The figures of the adversarial passes.
        steering: What has become of the epsilon of sites with a ``target_gain``; part of
            checkpoints.
        num_void_updates: Updates since the start whose gradient was not finite, and was replaced by
            zero; a 0-dim tensor.
    """

    def __init__(self, *args, afan_seed: int = 0, clean_weight: Union[float, str] = 1.0, **kwargs):
        check_arguments(afan_seed, clean_weight)
        super().__init__(*args, **kwargs)
        self.afan_seed = afan_seed
        self.clean_weight = clean_weight
        self.epsilon_scale = 1.0
        self.health = Health()
        self.steering = Steering()
        self.num_void_updates = torch.zeros((), dtype=torch.long)
        self._session: Optional[Session] = None
        self._guarded = False
        self._checked: Optional[Set[str]] = None  # names of sites, once a step is over
        self._replicas: Optional[DistributedDataParallel] = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Record the clean forward pass.

        Under DDP the whole step runs without its gradient synchronisation, which allows one
        backward only; the sum of all passes is averaged over the ranks when the wrapper should
        sync.
        """
        host = unwrapped(model)
        if host is not model and not isinstance(model, DistributedDataParallel):
            raise NotImplementedError(
                'A-FAN trains a plain model or DistributedDataParallel, but got '
                f'{type(model).__name__}'
            )
        self.resolve_clean_weight(host)
        self._replicas = None if host is model else model
        replicas = model if host is not model and self.should_sync() else None
        if self._session is not None:  # nobody called backward
            self._session.was_replaced = True
            self._session.discard()
        self._session = Session(
            host,
            key=f'{self.afan_seed}/{get_rank()}/{self._inner_count}',
            iteration=self._inner_count,
            scale=self.epsilon_scale,
            # The host itself has no no_sync: what is left of the stock context is that of a
            # forward pass.
            forward_context=lambda: super(AFANOptimMixin, self).optim_context(host),
            weigh=self.scale_loss,
            scale_loss=self.scaled,
            health=self.health,
            steering=self.steering,
            replicas=replicas,
        )
        with ExitStack() as stack:
            if host is not model:
                stack.enter_context(_unsynchronised(model, replicas is not None))
            stack.enter_context(super().optim_context(model))
            stack.enter_context(self._session.record())
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        """Back-propagate the clean loss and every adversarial pass."""
        session, self._session = self._session, None
        count = self._inner_count

        def backward(part: Tensor) -> None:
            super(AFANOptimMixin, self).backward(part, **kwargs)
            self._inner_count = count  # so that `scale_loss` treats every pass of the step alike

        if session is None:
            backward(loss)
        else:
            try:
                session.backward(self.clean_weight * loss, backward)
            except BaseException:
                session.discard()
                raise
            self._guarded |= bool(session.sites or session.declared)
            self._check_sites(session)
        self._inner_count = count + 1

    def _check_sites(self, session: Session) -> None:
        """Raise if a site that takes part for the first time had no passes, here or on any rank.

        Ranks must agree on when to ask each other: what modules declare is the same on all of them,
        what else a step taps need not be, and is looked at in the first step only.
        """
        due, error = session.wanted, None
        if self._checked is None:
            self._checked, due = set(), due | session.sites.keys()
        elif due <= self._checked:
            return
        due = due - self._checked
        try:
            session.check_ran(due)
        except (RuntimeError, ValueError) as found:
            error = found
        raise_on_all(error, self._replicas)
        self._checked |= due

    def resolve_clean_weight(self, model: nn.Module) -> None:
        """Replace 'complement' by its number.

        Args:
            model: The host, not a data-parallel wrapper.
        """
        if self.clean_weight == 'complement':
            self.clean_weight = complement([settings for _, settings in declared_sites(model)])

    def state_dict(self) -> dict:
        """That of the stock wrapper, and the factors on epsilon where there are any."""
        state = super().state_dict()
        factors = self.steering.state_dict()
        if factors:
            state['afan_epsilon_factors'] = factors
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what :meth:`state_dict` gave, or a stock wrapper's."""
        stock = dict(state_dict)
        self.steering.load_state_dict(stock.pop('afan_epsilon_factors', {}))
        super().load_state_dict(stock)

    def step(self, **kwargs) -> None:
        """Update the parameters. Where a gradient is not finite all count zero: one hostile batch
        must not cost the run its weights.
        """
        if self._guarded and not self.scaler_guards():
            self._void_unless_finite()
        super().step(**kwargs)

    def _void_unless_finite(self) -> None:
        grads = [
            p.grad._values() if p.grad.is_sparse else p.grad
            for group in self.optimizer.param_groups
            for p in group['params']
            if p.grad is not None
        ]
        grads = [grad for grad in grads if grad.numel()]
        if not grads:
            return
        finite = all_finite(grads)
        if finite.device.type == 'cpu' and finite:  # elsewhere to ask would be to wait
            return
        zero_unless_(finite, grads)
        self.num_void_updates = self.num_void_updates.to(finite.device, non_blocking=True) + ~finite

    def scaler_guards(self) -> bool:
        return False

    def scaled(self, loss: Tensor) -> Tensor:
        return loss


def check_arguments(afan_seed: Any = 0, clean_weight: Any = 1.0) -> None:
    """Raise where these arguments of an A-FAN optim wrapper are wrong, with what is allowed."""
    if isinstance(afan_seed, bool) or not isinstance(afan_seed, int):
        raise TypeError(f'afan_seed must be an integer, but got {afan_seed!r}')
    if not isinstance(clean_weight, str):
        check_number('clean_weight', clean_weight, above=True)
    elif clean_weight != 'complement':
        raise ValueError(
            f"clean_weight must be a finite number > 0 or 'complement', but got {clean_weight!r}"
        )


@contextmanager
def _unsynchronised(replicas: DistributedDataParallel, updates: bool) -> Iterator[None]:
    """DDP's ``no_sync`` around the clean forward pass, and what else its reducer, which then has
    nothing to do, must not do or leave.

    Args:
        updates: Whether the step ends in an average over the ranks.
    """
    # With either, the outputs go through a function whose backward wakes the reducer.
    sleeping = dict(static_graph=False, find_unused_parameters=False)
    with replicas.no_sync(), replaced(replicas, **(sleeping if replicas.static_graph else {})):
        yield
    # `no_sync` has switched the broadcast of buffers off for the next forward pass.
    replicas.require_forward_param_sync = updates


@OPTIM_WRAPPERS.register_module()
class AFANOptimWrapper(AFANOptimMixin, OptimWrapper):
    """``OptimWrapper`` with A-FAN: change ``type`` and keep the other keys."""


@OPTIM_WRAPPERS.register_module()
class AFANAmpOptimWrapper(AFANOptimMixin, AmpOptimWrapper):
    """``AmpOptimWrapper`` with A-FAN: change ``type`` and keep the other keys."""

    def scaled(self, loss: Tensor) -> Tensor:
        return self.loss_scaler.scale(loss)

    def scaler_guards(self) -> bool:
        # It looks for itself, and must see an overflow to lower its scale.
        return self.loss_scaler.is_enabled()
