"""Variants made runnable: all train the same weights, with one optimizer at learning rate 0, on the
same batch.
"""

import copy
import dataclasses
import logging
from contextlib import ExitStack
from typing import Any, Callable, Dict, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn
from torch.profiler import record_function

from ...declared import declared_by
from ...isolation import isolated_random, replaced
from ...stock_model import build, resize, without_weights
from .meters import LabelClock, held_memory, peak_memory, timed
from .schedules import TAILS
from .variants import Variant, wrapper_config

SEED = 0


class Run:
    """One variant, ready to train.

    Args:
        name: Of the variant.
        variant: What to train.
        cfg: The config it belongs to.
        batch: What its data loader would give.
        device: Where to train.
        amp: 'none', 'fp16' or 'bf16'.
        twin: A run whose weights and optimizer this one shares. Defaults to none: fresh weights.
    """

    def __init__(
        self,
        name: str,
        variant: Variant,
        cfg: Config,
        batch: dict,
        device: torch.device,
        amp: str,
        twin: Optional['Run'] = None,
    ):
        self.name = name
        self.variant = variant
        self.batch = batch
        self.device = device
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            shape = batch['data_samples'][0].img_shape
            self.model = _build(variant.model, shape, device, twin.model if twin else None)
            self.wrapper = build_optim_wrapper(self.model, wrapper_config(cfg, variant, amp))
        if twin is not None:
            self.wrapper.optimizer = twin.wrapper.optimizer
        for group in self.wrapper.optimizer.param_groups:
            group['lr'] = 0.0

    def __call__(self) -> Dict[Any, float]:
        """Seconds of one training step."""
        return {self.name: timed(self.steps(), self.device) / self.variant.num_steps}

    def peak(self) -> int:
        """Bytes held at most during a step: parameters, buffers, gradients, optimizer state and
        activations.
        """
        return held_memory(self.model, self.wrapper.optimizer) + peak_memory(
            self.steps(), self.device
        )

    def steps(self) -> Callable[[], None]:
        """The steps to measure, with random streams that start alike in every run."""
        batches = [copy.deepcopy(self.batch) for _ in range(self.variant.num_steps)]

        def steps() -> None:
            with isolated_random(SEED, self.device):
                for batch in batches:
                    self.variant.step(self.model, batch, self.wrapper)

        return steps


class TailRun(Run):
    """The tails of a variant's sites in place of its training step."""

    def __init__(self, name: str, variant: Variant, *args, **kwargs):
        super().__init__(name, variant._replace(wrappers=TAILS), *args, **kwargs)
        settings = [settings for module in self.model.modules() for settings in declared_by(module)]
        self.settings = {each.name: each for each in settings if each.num_strengths}

    def __call__(self) -> Dict[Any, float]:
        """Seconds of the tail of each site, as ``('tail', variant, site)``."""
        self.steps()()
        return {
            ('tail', self.name, site): seconds
            for site, seconds in self.wrapper.session.seconds.items()
        }

    def passes(self, variant: Variant) -> Dict[str, float]:
        """How often a variant runs the tail of each site in a step, on average. Joint passes run
        that of the first site they perturb.
        """
        changed = {
            name: dataclasses.replace(settings, **variant.settings)
            for name, settings in self.settings.items()
        }
        passes = {
            name: settings.num_passes / settings.interval for name, settings in changed.items()
        }
        # in the order in which the clean pass meets them
        joint = [name for name in self.wrapper.session.seconds if changed[name].joint]
        return {name: 0 if name in joint[1:] else number for name, number in passes.items()}


class PartsRun(Run):
    """Where the time of a step goes."""

    def __call__(self) -> Dict[Any, float]:
        """Seconds of the parts of a step, as ``('part', name)``."""
        clock, steps = LabelClock(self.device), self.steps()
        with ExitStack() as stack:
            stack.enter_context(clock.running())
            stack.enter_context(
                replaced(
                    self.model,
                    _run_forward=record_function('clean forward')(self.model._run_forward),
                )
            )
            stack.enter_context(
                replaced(
                    self.wrapper, backward=record_function('clean backward')(self.wrapper.backward)
                )
            )
            stack.enter_context(record_function('the rest'))
            steps()
        seconds: Dict[Any, float] = {}
        for label, value in clock.seconds.items():
            key = ('part', _part(label))
            seconds[key] = seconds.get(key, 0.0) + value
        return seconds


def _build(
    config: dict, shape: Tuple[int, int], device: torch.device, twin: Optional[nn.Module]
) -> nn.Module:
    config = copy.deepcopy(config)
    without_weights(config)
    resize(config, shape)
    model = build(config)
    if twin is None:
        logging.disable(logging.INFO)  # mmengine reports every parameter
        model.init_weights()
        logging.disable(logging.NOTSET)
    else:
        sources = dict(twin.named_modules())
        for name, module in model.named_modules():
            # an AFANNeckWrapper of a host without a neck has no twin, and no weights
            if name in sources:
                module._parameters, module._buffers = (
                    sources[name]._parameters,
                    sources[name]._buffers,
                )
    return model.to(device)


def _part(label: str) -> str:
    """The name of a part from its label."""
    if label.startswith('Optimizer.'):
        return 'optimizer'
    _, _, inside = label.partition('afan/')
    site, _, part = inside.rpartition('/')
    return f'{site}: {part}' if site else inside or label
