"""The hook that checks the set-up, warms the strength up and reports what the perturbations do."""

import math
from typing import Any, Dict, Optional, Set

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..auxiliary_norms import check_auxiliary_norms
from ..declared import declared_sites, trained_modules
from ..joint import adversarial_weight, units
from ..utils.checks import check_integer
from ..utils.models import unwrapped
from .optim_wrapper import AFANOptimMixin
from .site_table import Sites, check_sites, site_table

MANY_STDS = 2  # of the feature: a perturbation above has hidden it


@HOOKS.register_module()
class AFANHook(Hook):
    """Check, warm up and report A-FAN.

    Before training it prints the sites, and stops the run where the model has sites but the optim
    wrapper would ignore them, or the reverse. While training it sends the figures of
    :class:`~afan_mm.health.Health` to the message hub as ``train/afan/<site>/<figure>``, from where
    every visualiser backend gets them.

    Args:
        warmup_iters: Iterations over which every epsilon rises linearly to its value. Defaults to
            0.
        interval: Iterations between two reports. Defaults to 50.
    """

    def __init__(self, warmup_iters: int = 0, interval: int = 50):
        self.warmup_iters = check_integer('warmup_iters of AFANHook', warmup_iters, 0)
        self.interval = check_integer('interval of AFANHook', interval, 1)
        self._longest = 1
        self._strong: Dict[str, str] = {}  # sites that may turn out too strong, and the unit there
        self._unreached: Set[str] = set()  # sites whose target_gain no epsilon was found for
        self._void_updates = 0

    def before_train(self, runner: Runner) -> None:
        """Check the model and the optim wrapper, and print the table of sites."""
        model = unwrapped(runner.model)
        sites = declared_sites(model)
        check_sites(sites, type(runner.optim_wrapper))
        for _, module in trained_modules(model):
            if hasattr(module, 'afan_check'):
                module.afan_check(model)
        check_auxiliary_norms(model)
        self._strong = {s.name: s.epsilon_unit for _, s in sites if s.epsilon_unit != 'norm'}
        self._longest = max((settings.interval for _, settings in sites), default=1)
        runner.logger.info('A-FAN sites:\n' + site_table(sites))
        if sites:
            self._tell_weights(runner, sites, model)

    def _tell_weights(self, runner: Runner, sites: Sites, model: nn.Module) -> None:
        wrapper = runner.optim_wrapper
        wrapper.resolve_clean_weight(model)
        adversarial = adversarial_weight([settings for _, settings in sites])
        total = wrapper.clean_weight + adversarial
        divergences = sum(
            s.adv_weight * s.num_strengths
            for s in units([s for _, s in sites])
            if s.objective == 'consistency'
        )
        runner.logger.info(
            f'A-FAN weights: clean {wrapper.clean_weight:.4g} + adversarial {adversarial:.4g} = '
            f'{total:.4g}' + (f', divergences {divergences:.4g}' if divergences else '')
        )
        if total > 1 + 1e-6 and isinstance(wrapper.optimizer, torch.optim.SGD):
            runner.logger.warning(
                f'A-FAN: the weights of the losses sum to {total:.4g}, which multiplies the step '
                'of plain SGD by about as much. Keep it in mind when you compare with stock, or '
                "write optim_wrapper=dict(clean_weight='complement', ...) with adversarial weights "
                'below 1'
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[Any] = None
    ) -> None:
        """Warm up: a function of the iteration alone, so that a resumed run continues it."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, AFANOptimMixin):  # a stock baseline that inherits the hook
            return
        wrapper.epsilon_scale = (
            min(1.0, (runner.iter + 1) / self.warmup_iters) if self.warmup_iters else 1.0
        )
        # A site that is not active in every iteration is measured the last time before the report.
        wrapper.health.due = self.interval - 1 - runner.iter % self.interval < self._longest

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[Any] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Report the figures of this iteration."""
        if not isinstance(runner.optim_wrapper, AFANOptimMixin) or not self.every_n_train_iters(
            runner, self.interval
        ):
            return
        self._tell_void_updates(runner)
        self._tell_strong(runner)
        for key, value in runner.optim_wrapper.health.report().items():
            runner.message_hub.update_scalar(f'train/afan/{key}', value)
            if key.endswith('nonfinite_share') and value > 0:
                runner.logger.warning(
                    f'A-FAN: {value:.1%} of the last directions at {key.split("/")[0]!r} were not '
                    'finite, or there was no loss to take them from, and their adversarial passes '
                    'counted nothing'
                )
            if key.endswith('epsilon_factor'):
                self._tell_unreached(runner, key.split('/')[0], value)

    def _tell_strong(self, runner: Runner) -> None:
        for name, size in runner.optim_wrapper.health.relative_sizes().items():
            if name in self._strong and MANY_STDS < size < math.inf:
                unit = self._strong.pop(name)  # once is enough
                runner.logger.warning(
                    f'A-FAN: the perturbation at {name!r} measures {size:.3g} standard deviations '
                    f'of the feature there. Was epsilon ({unit}) meant to be that large, or does a '
                    "'/ 255' lack?"
                )

    def _tell_unreached(self, runner: Runner, name: str, factor: float) -> None:
        if name not in self._unreached and runner.optim_wrapper.steering.is_at_limit(name):
            self._unreached.add(name)
            runner.logger.warning(
                f'A-FAN: epsilon at {name!r} is {factor:.3g} times what was set, as far as it is '
                'steered, and its target_gain is not reached. Is it too much for what this '
                'perturbation can do there, or too little for what its random draws do?'
            )

    def _tell_void_updates(self, runner: Runner) -> None:
        void = int(runner.optim_wrapper.num_void_updates)
        if void > self._void_updates:
            runner.logger.warning(
                f'A-FAN: {void - self._void_updates} updates since the last report had a gradient '
                'that was not '
                f'finite, and were made with a zero gradient ({void} so far)'
            )
        self._void_updates = void
