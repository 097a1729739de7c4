"""One run: an arm with a seed, in a process of its own."""

import copy
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

import cv2
import torch
from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from . import sources
from .measures import MEASURES, Trained, plain_figures
from .notes import same_weights, training_notes
from .sources import imported_modules
from .store import Store
from .training import prepare, train


@dataclass
class RunSpec:
    """All that a process needs to know; plain data, so that any machine can read it.

    Attributes:
        store: Folder of the :class:`~.store.Store`.
        key: Of the run: an arm, the seed, and a digest of what determines the weights. Arms of one
            config are one run; the key is then that of the arm it was first run for.
        cfg: The training config, resolved.
        evaluation: ``dict(loader, evaluator)`` of the images that are measured.
        measures: Settings by the key under which the figures are kept.
        environment: Versions that the key stands for.
        curve: See :func:`~.training.prepare`.
        threads: Of this process.
        imports: Modules that register what the config and the measures name.
    """

    store: str
    key: str
    experiment: str
    arm: str
    seed: int
    cfg: dict
    evaluation: dict
    measures: Dict[str, dict]
    environment: Dict[str, str]
    curve: Optional[dict] = None
    threads: int = 1
    keep_checkpoints: bool = False
    imports: List[str] = field(default_factory=list)


def missing(spec: RunSpec, record: Optional[Dict[str, Any]]) -> Dict[str, dict]:
    """The measures whose figures a record does not have."""
    have = {} if record is None else record['measured']
    return {key: settings for key, settings in spec.measures.items() if key not in have}


def run(spec: RunSpec) -> Dict[str, Any]:
    """Train, measure and store; only what is not stored yet. What is stored is measured anew where
    the weights are gone and those of another training need not be the same.

    Returns:
        The record: ``key``, ``experiment``, ``arm``, ``seed``, ``environment``, ``training`` (see
        :class:`~.notes.Notes`), ``wall`` (seconds of the process) and ``measured``: by key the
        ``measure``, its ``figures`` and ``details``.
    """
    store, began = Store(spec.store), time.perf_counter()
    with store.lock(spec.key):
        record = store.load(spec.key)
        if not missing(spec, record):
            return record
        cfg = Config(copy.deepcopy(spec.cfg))
        import_modules_from_strings([*spec.imports, *imported_modules(cfg.get('custom_imports'))])
        check_environment(spec, cfg)
        limit_threads(spec.threads)
        let_children_end()
        folder = store.run_folder(spec.key).absolute()
        runner = train(prepare(cfg, folder, spec.seed, spec.curve), folder)
        training = training_notes(folder)
        if record and not same_weights(record['training'], training):
            record = None  # figures of two trainings are not of one run
        names = [settings['type'] for settings in missing(spec, record).values()]
        trained = Trained(runner, cfg, training, **spec.evaluation, names=names)
        record = record or dict(measured={})
        record.update(
            {
                key: getattr(spec, key)
                for key in ('key', 'experiment', 'arm', 'seed', 'environment')
            },
            training=training,
        )
        for key, settings in missing(spec, record).items():
            result = measure(trained, settings)
            record['measured'][key] = dict(result, measure=settings)
            record['wall'] = time.perf_counter() - began
            store.save(spec.key, record)
        if not spec.keep_checkpoints:
            remove_checkpoints(folder)
    return record


def measure(trained: Trained, settings: dict) -> Dict[str, Any]:
    """The ``figures`` of one measure, single numbers under its name, and its ``details``."""
    settings = dict(settings)
    name = settings.pop('type')
    figures = plain_figures(name, MEASURES[name](trained, **settings))
    details = figures.pop('details', None)
    if name != 'stock':
        figures = {k if k == name else f'{name}/{k}': value for k, value in figures.items()}
    return dict(figures=figures, details=details)


def check_environment(spec: RunSpec, cfg: Config) -> None:
    """Refuse to file the figures of one code under the name of another."""
    found = sources.environment(cfg)
    changed = sorted(
        k for k in {*found, *spec.environment} if found.get(k) != spec.environment.get(k)
    )
    if changed:
        raise RuntimeError(
            f'{", ".join(changed)} changed since the experiment was started; start it again'
        )


def let_children_end() -> None:
    """Have the processes that this one forks end on SIGTERM.

    A metric may fork a pool, whose own end waits for that. submitit makes its jobs pass over the
    signal, and a fork inherits it: the run would wait for ever.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def limit_threads(threads: int) -> None:
    """Keep to this process's share of the cores. OpenMP has read its variable by now."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    os.environ['OMP_NUM_THREADS'] = str(threads)


def remove_checkpoints(folder: Path) -> None:
    """The pointer first: without it a file that is left is not taken for one to go on from."""
    (folder / 'last_checkpoint').unlink()
    for path in folder.glob('*.pth'):
        path.unlink()
