"""One pass of a model whose sites are looked at, not trained on."""

import copy
from contextlib import ExitStack
from typing import Collection, Optional

import torch
from torch import Tensor

from .isolation import evaluation_mode, flow_modules, isolated_random, restored_state
from .session import Session
from .site import Site


class Observation(Session):
    """Finds the directions as training does; what becomes of them is the subclass's ``run``."""

    def observe(self, batch: dict, sites: Optional[Collection[str]] = None, seed: int = 0) -> dict:
        """One clean pass in evaluation mode (batch norm uses its running statistics) and full
        precision, and ``run`` for each site.

        Parameters, gradients, buffers, modes and random streams are afterwards as before.

        Args:
            batch: As from a data loader, with ground truth in the frame of the input.
            sites: Names of sites that there must be. Defaults to none.
            seed: Of what the host draws. Defaults to 0.

        Returns:
            The batch as the model's data preprocessor makes it.

        Raises:
            ValueError: If the model has no such site in this pass, or none at all.
        """
        model = self.model
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(isolated_random(seed, next(model.parameters()).device))
            stack.enter_context(restored_state(model))
            stack.enter_context(evaluation_mode(model, flow_modules(model)))
            with self.record():
                data = model.data_preprocessor(copy.deepcopy(batch), True)
                losses = model._run_forward(data, mode='loss')
            missing = sorted(set(sites or ()) - set(self.sites))
            if missing or not self.sites:
                raise ValueError(
                    f'sites must be among {sorted(self.sites)}, those that this model has switched '
                    f'on, but got {missing or "none"}'
                )
            self.finish(model.parse_losses(losses)[0])
        return data

    def joined(self, site: Site) -> None:
        """Its feature is looked at."""

    def finish(self, loss: Tensor) -> None:
        """End where the directions are known: no parameter gets a gradient."""
        self.find_gradients(loss)
        self.remove_hooks()
        for site in self.entries:
            self.run(site)
