"""The loss over a line or a plane of weights: Figure 3 of the paper, for any model."""

import itertools
import math
import os.path as osp
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.registry import DefaultScope, init_default_scope

from ..utils.checks import check_integer
from ..utils.files import write_json
from .digests import digest
from .directions import State, Surface, line_direction, random_direction, weights_at
from .losses import FixedLosses
from .products import read_state
from .progress import Progress

SAVE_INTERVAL = 5  # seconds
Index = Tuple[int, ...]


def measure_landscape(
    losses: FixedLosses,
    checkpoints: Dict[str, State],
    axes: Sequence[Sequence[float]],
    seed: int = 0,
    processes: int = 1,
    path: Optional[str] = None,
) -> Dict[str, Any]:
    """The mean loss around each checkpoint along random filter-normalised directions.

    All checkpoints see the same samples, the same draws of the host and the same noise, scaled to
    the filters of each.

    Args:
        losses: The model and its batches.
        checkpoints: Weights and buffers by the name of the checkpoint.
        axes: One or two lists of steps, in units of the filters' own norms.
        seed: Of the directions; the second is that of ``seed + 1``. Defaults to 0.
        processes: How many points are computed at once, each by a copy of model and batches.
            Defaults to 1.
        path: JSON file of the numbers; a later call with the same weights, loss, data and
            directions computes only the points that it lacks. Defaults to None, no file.

    Returns:
        ``axes``, ``about`` (kind, seed, images), and ``losses`` by checkpoint: nested lists, the
        first axis outside; None where the loss is not finite.

    Raises:
        ValueError: If there are more than two axes, or a number is out of range.
    """
    if not 1 <= len(axes) <= 2:
        raise ValueError(f'axes must be one or two lists of steps, but got {len(axes)}')
    surfaces = {
        name: Surface(
            state, [random_direction(losses.model, state, seed + i) for i in range(len(axes))]
        )
        for name, state in checkpoints.items()
    }
    about = dict(kind='random', seed=seed, images=losses.num_images)
    return _Run(losses, surfaces, axes, about, path).run(processes)


def measure_line(
    losses: FixedLosses,
    start: State,
    end: State,
    axis: Sequence[float],
    names: Tuple[str, str] = ('start', 'end'),
    processes: int = 1,
    path: Optional[str] = None,
) -> Dict[str, Any]:
    """The mean loss on the straight line between two checkpoints of one model.

    Args:
        losses, processes, path: As of :func:`measure_landscape`.
        start, end: Weights and buffers.
        axis: Steps; 0 is ``start`` and 1 is ``end``.
        names: Of the two ends. Defaults to ('start', 'end').

    Returns:
        As of :func:`measure_landscape`, under one name.
    """
    name = ' to '.join(names)
    surfaces = {name: Surface(start, [line_direction(start, end)])}
    about = dict(kind='line', start=names[0], end=names[1], images=losses.num_images)
    return _Run(losses, surfaces, [axis], about, path).run(processes)


class _Run:
    """All points of all surfaces; what is done is kept by the digest of its surface."""

    def __init__(
        self,
        losses: FixedLosses,
        surfaces: Dict[str, Surface],
        axes: Sequence[Sequence[float]],
        about: Dict[str, Any],
        path: Optional[str],
    ):
        self.losses = losses
        self.surfaces = surfaces
        self.axes = [[float(step) for step in axis] for axis in axes]
        self.about = about
        self.path = path
        data = losses.digest()
        self.keys = {
            name: digest(data, self.axes, surface.origin, surface.directions)
            for name, surface in surfaces.items()
        }
        stored = (read_state(path) or {}).get('points', {}) if path is not None else {}
        # points of other surfaces in the file are another figure's
        self.points = {key: stored.get(key, {}) for key in self.keys.values()}
        self._saved = time.monotonic()

    def run(self, processes: int) -> Dict[str, Any]:
        """Compute what is missing."""
        check_integer('processes', processes, least=1)
        indices = list(itertools.product(*(range(len(axis)) for axis in self.axes)))
        jobs = [
            (name, index)
            for name in self.surfaces
            for index in indices
            if _label(index) not in self.points[self.keys[name]]
        ]
        total = len(indices) * len(self.surfaces)
        try:
            with Progress('landscape', total, total - len(jobs)) as progress:
                for (name, index), value in self._values(jobs, processes):
                    finite = value if math.isfinite(value) else None
                    self.points[self.keys[name]][_label(index)] = finite
                    progress.advance()
                    self._save(SAVE_INTERVAL)
        finally:
            self._save(0)
        return self._result()

    def _values(
        self, jobs: List[Tuple[str, Index]], processes: int
    ) -> Iterator[Tuple[Tuple[str, Index], float]]:
        steps = [[axis[i] for axis, i in zip(self.axes, index)] for _, index in jobs]
        if processes == 1 or not jobs:
            for job, at in zip(jobs, steps):
                yield job, loss_at(self.losses, self.surfaces[job[0]], at)
            return
        with tempfile.TemporaryDirectory() as folder:
            recipe = osp.join(folder, 'recipe.pth')
            scope = DefaultScope.get_current_instance()
            torch.save((self.losses, self.surfaces, scope and scope.scope_name), recipe)
            with ProcessPoolExecutor(
                processes, torch.multiprocessing.get_context('spawn'), _start, (recipe,)
            ) as pool:
                futures = {
                    pool.submit(_worker_loss, job[0], at): job for job, at in zip(jobs, steps)
                }
                try:
                    for future in as_completed(futures):
                        yield futures[future], future.result()
                finally:
                    for future in futures:
                        future.cancel()

    def _save(self, interval: float) -> None:
        if self.path is not None and time.monotonic() - self._saved >= interval:
            write_json(self.path, dict(self._result(), points=self.points))
            self._saved = time.monotonic()

    def _result(self) -> Dict[str, Any]:
        shape = [len(axis) for axis in self.axes]
        found = {}
        for name, key in self.keys.items():
            values = np.full(shape, None, dtype=object)
            for label, value in self.points[key].items():
                values[tuple(map(int, label.split(',')))] = value
            found[name] = values.tolist()
        return dict(about=self.about, axes=self.axes, losses=found)


def loss_at(losses: FixedLosses, surface: Surface, steps: Sequence[float]) -> float:
    """The mean loss at one point; the model is afterwards as before."""
    with losses.evaluating(), weights_at(losses.model, surface, steps):
        return losses.mean()


def _label(index: Index) -> str:
    return ','.join(map(str, index))


_of_worker: Any = None


def _start(recipe: str) -> None:
    """Make a process ready: its own copy of everything, and one thread."""
    global _of_worker
    torch.set_num_threads(1)
    # written a moment ago by the process that started this one
    losses, surfaces, scope = torch.load(recipe, weights_only=False)
    if scope is not None:
        init_default_scope(scope)
    _of_worker = losses, surfaces


def _worker_loss(name: str, steps: Sequence[float]) -> float:
    losses, surfaces = _of_worker
    return loss_at(losses, surfaces[name], steps)
