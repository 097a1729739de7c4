"""One config with a shape and a batch size: what it costs, and how that grows."""

import copy
import statistics
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.utils import ProgressBar

from ...random_batches import default_batch_size, default_shape, random_batch
from ...utils.configs import LIBRARIES, read_config
from ...utils.errors import UsageError, describe
from .meters import measure_rounds
from .runs import PartsRun, Run, TailRun
from .variants import variants_of, with_settings

SMALLEST = 32  # pixels; the coarsest stride of these networks
MEMORY_FROM = dict(cuda="CUDA's allocator", cpu="the profiler's record of tensors")


class Plan(NamedTuple):
    """How to measure.

    Attributes:
        rounds: Every variant runs once in each.
        warmup: Unmeasured runs of each variant.
        amp: 'none', 'bf16' or 'fp16'.
        seed: Of the order in each round.
    """

    rounds: int = 5
    warmup: int = 1
    amp: str = 'none'
    seed: int = 0


class Case:
    """One config to measure.

    Args:
        path: Of the config.
        device: Where to measure.
        plan: How to. Defaults to five rounds in full precision.
        cfg_options: New values of the config by key. Defaults to none.
        shape: (H, W) of the images in pixels. Defaults to the config's own on a GPU and for a
            classifier, a small one on a CPU.
        batch_size: Images. Defaults to the config's own on a GPU, 2 on a CPU.

    Raises:
        UsageError: If the config cannot be read, has no A-FAN site, or is of a library that no
            batch can be made up for.
    """

    def __init__(
        self,
        path: str,
        device: torch.device,
        plan: Optional[Plan] = None,
        cfg_options: Optional[Dict[str, Any]] = None,
        shape: Optional[Sequence[int]] = None,
        batch_size: Optional[int] = None,
    ):
        self.path, self.plan, self.device = path, plan or Plan(), device
        self.cfg = read_config(path, cfg_options)
        if self.cfg.get('default_scope') not in LIBRARIES:
            raise UsageError(
                f'{path}: default_scope must be one of {LIBRARIES}, but got '
                f'{self.cfg.get("default_scope")!r}'
            )
        try:
            self.variants = variants_of(self.cfg)
            self.shape = tuple(shape or default_shape(self.cfg, device))
        except ValueError as error:
            raise UsageError(f'{path}: {error}') from error
        self.batch_size = batch_size or default_batch_size(self.cfg, device)
        self._check_shape()

    def grown(self, quantity: str, value: int) -> 'Case':
        """The same case with another value of 'shape' (both sides), 'batch_size', or a setting of
        every site.
        """
        case = copy.copy(self)
        if quantity == 'shape':
            case.shape = (value, value)
            case._check_shape()
        elif quantity == 'batch_size':
            case.batch_size = value
        else:
            case.cfg = copy.deepcopy(self.cfg)
            case.cfg.model = with_settings(self.cfg.model, **{quantity: value}, normalized=None)
            case.variants = variants_of(case.cfg)
        return case

    def measure(self, names: Sequence[str], with_details: bool = True) -> Dict[str, Any]:
        """Time and memory of the named variants, 'stock' the first of them.

        Args:
            with_details: Whether to measure the tails, for the floors, and the parts of the A-FAN
                step as well.
        """
        plan = [(name, Run, name) for name in names]
        if with_details:
            tailed = sorted({self.variants[name].tails for name in names} - {None})
            plan += [(f'tails of {name}', TailRun, name) for name in tailed]
            plan += [('parts', PartsRun, 'afan')] if 'afan' in names else []
        bar = ProgressBar(
            len(plan) * (1 + self.plan.rounds) + 2 * self.plan.rounds + len(names), file=sys.stderr
        )
        runs = self._build(plan, bar)
        ratios, seconds = measure_rounds(
            runs, 'stock', self.plan.rounds, self.plan.seed, bar.update
        )
        peaks = {}
        for name in names:
            peaks[name] = runs[name].peak()
            bar.update()
        print(file=sys.stderr)  # ends the progress bar
        tails = {made.name: made for made in runs.values() if isinstance(made, TailRun)}
        variants = {}
        for name in names:
            variant = self.variants[name]
            variants[name] = dict(
                title=variant.title,
                time=_spread(ratios[name]),
                memory=peaks[name] / peaks['stock'],
                ratios=ratios[name],
                floor=_floor(tails[variant.tails], variant, ratios)
                if variant.tails in tails
                else None,
            )
        return dict(
            self._header(),
            stock_seconds=statistics.median(seconds),
            stock_bytes=peaks['stock'],
            variants=variants,
            tails={name: _tails(made, ratios) for name, made in tails.items()},
            parts=_parts(ratios),
        )

    def grow(self, quantities: Sequence[Tuple[str, Sequence[int]]]) -> Dict[str, Any]:
        """The A-FAN step beside the stock step, for each value of each quantity; a value that
        cannot be trained says why.
        """
        # All of them first: a value that cannot be is no news after the others were measured.
        cases = {
            quantity: [(value, self.grown(quantity, value)) for value in values]
            for quantity, values in quantities
        }
        growth: Dict[str, List[Dict[str, Any]]] = {quantity: [] for quantity in cases}
        for quantity, grown in cases.items():
            for value, case in grown:
                try:
                    found = case.measure(['stock', 'afan'], with_details=False)
                except UsageError as error:  # what was measured before must not be lost
                    growth[quantity].append(dict(value=value, error=str(error)))
                    continue
                row = {key: found['variants']['afan'][key] for key in ('time', 'memory', 'ratios')}
                growth[quantity].append(
                    dict(
                        row,
                        value=value,
                        stock_seconds=found['stock_seconds'],
                        stock_bytes=found['stock_bytes'],
                    )
                )
        return dict(self._header(), growth=growth)

    def _check_shape(self) -> None:
        if min(self.shape) < SMALLEST:
            raise UsageError(
                f'shape must be at least {SMALLEST} x {SMALLEST} pixels, but got {self.shape[0]} '
                f'x {self.shape[1]}'
            )

    def _header(self) -> Dict[str, Any]:
        """How the figures are taken."""
        is_gpu = self.device.type == 'cuda'
        name = (
            torch.cuda.get_device_name(self.device)
            if is_gpu
            else f'CPU with {torch.get_num_threads()} threads'
        )
        return dict(
            config=self.path,
            shape=self.shape,
            batch_size=self.batch_size,
            device=name,
            rounds=self.plan.rounds,
            precision='float32' if self.plan.amp == 'none' else self.plan.amp,
            memory_from=MEMORY_FROM[self.device.type],
        )

    def _build(self, plan: Sequence[Tuple[str, type, str]], bar: ProgressBar) -> Dict[str, Run]:
        """Make each run and warm it up: its first step tells whether it can be taken at all."""
        torch.backends.cudnn.benchmark = bool(self.cfg.get('env_cfg', {}).get('cudnn_benchmark'))
        try:
            batch = random_batch(self.cfg, self.shape, self.batch_size)
        except ValueError as error:
            raise UsageError(f'{self.path}: {error}') from error
        runs: Dict[str, Run] = {}
        for key, kind, name in plan:
            try:
                run = kind(
                    name,
                    self.variants[name],
                    self.cfg,
                    batch,
                    self.device,
                    self.plan.amp,
                    runs.get('stock'),
                )
                runs[key] = run
                for _ in range(self.plan.warmup):
                    run()
            except Exception as error:
                # models refuse shapes, and devices run out of memory, in many ways
                print(file=sys.stderr)  # ends the progress bar
                raise UsageError(
                    f'{self.path}: cannot train {name!r} on images of {self.shape[0]} x '
                    f'{self.shape[1]} in '
                    f'batches of {self.batch_size}: {describe(error)}'
                ) from error
            bar.update()
        return runs


def _spread(values: Sequence[float]) -> Dict[str, float]:
    q1, median, q3 = np.percentile(values, [25, 50, 75]).tolist()
    return dict(median=median, q1=q1, q3=q3)


def _tails(run: TailRun, ratios: Dict[Any, List[float]]) -> Dict[str, Any]:
    passes = run.passes(run.variant)
    return {
        site: dict(time=_spread(ratios['tail', run.name, site]), passes=passes[site])
        for site in run.settings
    }


def _floor(run: TailRun, variant: Any, ratios: Dict[Any, List[float]]) -> float:
    """What a variant must take at least: the stock step, and each tail as often as it runs it."""
    return 1 + sum(
        n * statistics.median(ratios['tail', run.name, site])
        for site, n in run.passes(variant).items()
    )


def _parts(ratios: Dict[Any, List[float]]) -> Dict[str, float]:
    """Per cent of the A-FAN step that each part takes, the largest first."""
    medians = {
        key[1]: statistics.median(values) for key, values in ratios.items() if key[0] == 'part'
    }
    return {
        name: 100 * value / sum(medians.values())
        for name, value in sorted(medians.items(), key=lambda item: -item[1])
    }
