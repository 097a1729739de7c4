"""What a training starts from and what it takes, written beside its log."""

import hashlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..auxiliary_norms import without_auxiliary
from ..robustness.report import scalars
from ..utils.files import write_json

FIRST_BATCHES = 5  # that the digest of the data covers


class Notes(Hook):
    """Writes what a training starts from and what it takes.

    ``start.json``: digests of the initial weights (``initial_weights``) and of the first five
    batches (``first_batches``, absent where they were interrupted), by which arms of a seed are
    known to be paired, and the ``curve``: of each validation its metrics and ``iteration``.
    ``training.json`` at the end, with them: ``iterations``, ``seconds`` and ``cpu_seconds`` of the
    training without validation, for an interrupted one extrapolated from its last part, which may
    be too short to compare by; ``memory`` in MiB, the process's peak, or CUDA's if it is used;
    ``device``, ``threads``, ``workers`` (that load data), and whether it was ``resumed``.
    """

    priority = 'VERY_HIGH'  # before anything that another hook does to the weights

    def __init__(self, folder: Path):
        self.folder = folder
        self.batches = hashlib.sha256()
        self.start: Dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        self.first, path = runner.iter, self.folder / 'start.json'
        if self.first:
            self.start = json.loads(path.read_text())
            before = self.start.get('curve', [])
            self.start['curve'] = [each for each in before if each['iteration'] <= self.first]
        else:
            self._keep(curve=[], initial_weights=weights_digest(runner.model))
        self.spent, self.since = [0.0, 0.0], clock()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[Any] = None
    ) -> None:
        if self.first or runner.iter >= FIRST_BATCHES:
            return
        update_digest(self.batches, data_batch)
        if runner.iter == min(FIRST_BATCHES, runner.max_iters) - 1:
            self._keep(first_batches=self.batches.hexdigest()[:16])

    def before_val(self, runner: Runner) -> None:
        self._add()

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, Any]] = None) -> None:
        point = dict(scalars(metrics or {}), iteration=runner.iter)
        self._keep(curve=[*self.start['curve'], point])

    def after_val(self, runner: Runner) -> None:
        self.since = clock()

    def after_train(self, runner: Runner) -> None:
        self._add()
        done = max(1, runner.iter - self.first)
        seconds, cpu_seconds = (each * runner.iter / done for each in self.spent)
        write_json(
            self.folder / 'training.json',
            dict(
                self.start,
                iterations=runner.iter,
                seconds=seconds,
                cpu_seconds=cpu_seconds,
                memory=peak_memory(),
                device=next(runner.model.parameters()).device.type,
                threads=torch.get_num_threads(),
                workers=runner.train_dataloader.num_workers,
                resumed=self.first > 0,
            ),
        )

    def _keep(self, **found: Any) -> None:
        """Note it, also for a process that goes on after this one."""
        self.start = {**self.start, **found}
        write_json(self.folder / 'start.json', self.start)

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
    """Of all parameters and buffers with their names, but for those of auxiliary norms: stock has
    none, and they start as the main ones.
    """
    found = hashlib.sha256()
    for name, tensor in sorted(without_auxiliary(model.state_dict()).items()):
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


def training_notes(folder: Path) -> Dict[str, Any]:
    """What :class:`Notes` wrote at the end."""
    return json.loads((folder / 'training.json').read_text())


def clock_of(training: Dict[str, Any]) -> str:
    """What a training is timed by: the seconds of its cores, which other processes on the machine
    do not stretch, or of the wall where a device or other processes do the work.
    """
    return 'seconds' if training['device'] != 'cpu' or training['workers'] else 'cpu_seconds'


def working_seconds(training: Dict[str, Any]) -> float:
    """The time that a training took, by its own clock."""
    return training[clock_of(training)]


def conditions(training: Dict[str, Any]) -> Dict[str, Any]:
    """What the time of a training depends on beside the config, as far as that was noted, by what
    several of it are called.
    """
    names = dict(device='devices', threads='threads')
    found = {name: training[key] for key, name in names.items() if key in training}
    if training.get('device') == 'cpu' and 'workers' in training:
        found['clocks'] = clock_of(training)
    return found


def timed_alike(one: Dict[str, Any], other: Dict[str, Any]) -> bool:
    """Whether the times of two trainings can be compared: on one kind of device, with as many
    threads, by the same clock, as far as that was noted.
    """
    ours, theirs = conditions(one), conditions(other)
    return all(ours[name] == theirs[name] for name in ours if name in theirs)


def seconds_per_iteration(training: Dict[str, Any]) -> float:
    return working_seconds(training) / training['iterations']


def same_weights(one: Dict[str, Any], other: Dict[str, Any]) -> bool:
    """Whether two trainings of a run end in the same weights, to the bit: they are one, or both ran
    on a CPU with as many threads, and neither was interrupted.
    """
    repeatable = one['device'] == 'cpu' and timed_alike(one, other)
    return one == other or repeatable and not (one.get('resumed') or other.get('resumed'))
