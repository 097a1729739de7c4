"""Train one config in a folder: start, go on after an interruption, and note what it took."""

import copy
import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner

from ..robustness.report import scalars
from .references import is_by_epoch
from .store import write_json

CHECKPOINTS = 4  # written in a training, evenly spread; the last one at its end
FIRST_BATCHES = 5  # that the digest of the data covers


class Notes(Hook):
    """Writes what a training starts from and what it takes.

    ``start.json``: digests of the initial weights and of the first five batches, by which arms of a
    seed are known to be paired. ``training.json`` at the end, with them: ``iterations``,
    ``seconds`` and ``cpu_seconds`` of the training without validation, for an interrupted one
    extrapolated from its last part; ``memory`` in MiB, the process's peak, or CUDA's if it is used;
    ``device``, ``workers`` (that load data), whether it was ``resumed``, and
    the ``curve``: of each validation its metrics and ``iteration``.
    """

    priority = 'VERY_HIGH'  # before anything that another hook does to the weights

    def __init__(self, folder: Path):
        self.folder = folder
        self.batches = hashlib.sha256()
        self.curve: List[Dict[str, float]] = []

    def before_train(self, runner: Runner) -> None:
        self.first = runner.iter
        if not self.first:
            self.weights = weights_digest(runner.model)
        self.spent, self.since = [0.0, 0.0], clock()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[Any] = None
    ) -> None:
        if self.first or runner.iter >= FIRST_BATCHES:
            return
        update_digest(self.batches, data_batch)
        if runner.iter == min(FIRST_BATCHES, runner.max_iters) - 1:
            start = dict(initial_weights=self.weights, first_batches=self.batches.hexdigest()[:16])
            write_json(self.folder / 'start.json', start)

    def before_val(self, runner: Runner) -> None:
        self._add()

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, Any]] = None) -> None:
        self.curve.append(dict(scalars(metrics or {}), iteration=runner.iter))

    def after_val(self, runner: Runner) -> None:
        self.since = clock()

    def after_train(self, runner: Runner) -> None:
        self._add()
        done = max(1, runner.iter - self.first)
        seconds, cpu_seconds = (each * runner.iter / done for each in self.spent)
        start = self.folder / 'start.json'
        write_json(
            self.folder / 'training.json',
            dict(
                json.loads(start.read_text()) if start.exists() else {},
                iterations=runner.iter,
                seconds=seconds,
                cpu_seconds=cpu_seconds,
                memory=peak_memory(),
                device=next(runner.model.parameters()).device.type,
                workers=runner.train_dataloader.num_workers,
                resumed=self.first > 0,
                curve=self.curve,
            ),
        )

    def _add(self) -> None:
        self.spent = [a + now - then for a, now, then in zip(self.spent, clock(), self.since)]


def clock() -> tuple:
    """Seconds of the wall and of this process's cores."""
    return time.perf_counter(), time.process_time()


def peak_memory() -> float:
    """The highest memory so far in MiB: CUDA's where it is used, otherwise the process's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def weights_digest(model: torch.nn.Module) -> str:
    """Of all parameters and buffers with their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        update_digest(found, tensor)
    return found.hexdigest()[:16]


def update_digest(found: Any, node: Any) -> None:
    """Add every tensor in dicts and lists."""
    if torch.is_tensor(node):
        plain = node.detach().cpu().contiguous().flatten()
        found.update(plain.view(torch.uint8).numpy().tobytes())
    elif isinstance(node, dict):
        for key in sorted(node):
            update_digest(found, node[key])
    elif isinstance(node, (list, tuple)):
        for child in node:
            update_digest(found, child)


def last_checkpoint(folder: Path) -> Optional[str]:
    """The checkpoint that a training in this folder wrote last; None where it is gone."""
    pointer = folder / 'last_checkpoint'
    path = pointer.read_text().strip() if pointer.exists() else ''
    return path if path and Path(path).is_file() else None


def prepare(cfg: Config, folder: Path, seed: int, curve: Optional[dict] = None) -> Config:
    """The config of a child: its seed and folder, few checkpoints, and validation only for a
    curve.

    Args:
        curve: ``dict(interval, loader, evaluator)``.
    """
    cfg = copy.deepcopy(cfg)
    cfg.work_dir, cfg.experiment_name = str(folder), folder.name
    cfg.launcher, cfg.resume = 'none', False
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    by_epoch = is_by_epoch(cfg)
    total = cfg.train_cfg.max_epochs if by_epoch else cfg.train_cfg.max_iters
    hooks = cfg.setdefault('default_hooks', {})
    hooks['checkpoint'] = dict(
        type='CheckpointHook',
        by_epoch=by_epoch,
        interval=-(-total // CHECKPOINTS),
        max_keep_ckpts=1,
        save_last=True,
    )
    for key in ('dataloader', 'evaluator', 'cfg'):
        cfg.pop(f'test_{key}', None)
        if curve is None:
            cfg.pop(f'val_{key}', None)
    if curve is not None:
        cfg.val_dataloader, cfg.val_evaluator = curve['loader'], curve['evaluator']
        cfg.train_cfg.val_interval = curve['interval']
    return cfg


def train(cfg: Config, folder: Path) -> Runner:
    """The runner after training, from the last checkpoint in the folder if there is one. With a
    finished training in the folder, its weights are loaded and nothing is trained.
    """
    checkpoint = last_checkpoint(folder)
    finished = checkpoint is not None and (folder / 'training.json').exists()
    if checkpoint is not None:
        cfg.load_from, cfg.resume = checkpoint, not finished
    runner = build_runner(cfg)
    if finished:
        runner.load_or_resume()
        return runner
    runner.register_hook(Notes(folder))
    runner.train()
    return runner


def build_runner(cfg: Config) -> Runner:
    """The runner that the config names, mmengine's own by default."""
    if 'runner_type' in cfg:
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


def training_notes(folder: Path) -> Dict[str, Any]:
    """What :class:`Notes` wrote at the end."""
    return json.loads((folder / 'training.json').read_text())


def working_seconds(training: Dict[str, Any]) -> float:
    """The time that a training took: of its cores, which other processes on the machine do not
    stretch, or of the wall where a device or other processes do the work.
    """
    cpu, wall = training['cpu_seconds'], training['seconds']
    return wall if training['device'] != 'cpu' or training['workers'] else cpu


def seconds_per_iteration(training: Dict[str, Any]) -> float:
    return working_seconds(training) / training['iterations']
