"""Sharpness-aware minimisation (Foret et al. 2021), the reference of A-FAN's cost: two forward and
backward passes a step.
"""

from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Tuple

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from ..isolation import restored_state
from ..utils.checks import check_number


@OPTIM_WRAPPERS.register_module()
class SAMOptimWrapper(OptimWrapper):
    """``OptimWrapper`` whose update takes the gradient where the loss is highest, to first order,
    within a distance of the weights (Eq. 2 and 3 there).

    Running statistics stay those of the first pass. One process, no accumulation.

    Args:
        rho: The distance, in the l2 norm of all weights. Defaults to 0.05, as there.
        kwargs: Arguments of ``OptimWrapper``.
    """

    def __init__(self, *args: Any, rho: float = 0.05, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._accumulative_counts != 1:
            raise ValueError(
                f'SAMOptimWrapper needs accumulative_counts=1, but got {self._accumulative_counts}'
            )
        self.rho = check_number('rho', rho, above=True)
        self._call: Optional[Tuple[nn.Module, tuple, dict]] = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Keep the arguments of the forward pass, to repeat it elsewhere."""
        if is_model_wrapper(model):
            raise TypeError(f'SAMOptimWrapper runs in one process, but got {type(model).__name__}')

        def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self._call = module, args, kwargs

        handle = model.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with super().optim_context(model):
                yield
        finally:
            handle.remove()

    def step(self, **kwargs: Any) -> None:
        """Update with the gradient at the disturbed weights."""
        (model, args, options), self._call = self._call, None
        params = [p for group in self.optimizer.param_groups for p in group['params']]
        params = [p for p in params if p.grad is not None]
        weights = [p.detach().clone() for p in params]
        self._ascend(params)
        self.zero_grad()
        with restored_state(model):
            self.backward(model.parse_losses(model(*args, **options))[0])
        self._inner_count -= 1  # one update, one count
        with torch.no_grad():
            for param, before in zip(params, weights):
                param.copy_(before)
        super().step(**kwargs)

    @torch.no_grad()
    def _ascend(self, params: List[nn.Parameter]) -> None:
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        for param in params:
            param.add_(param.grad * (self.rho / (norm + 1e-12)))
