"""Train one config in a folder: from the start, or on from where it was interrupted."""

import copy
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmengine.runner import Runner

from ..cli.runner import build_runner
from .notes import Notes
from .references import is_by_epoch

CHECKPOINTS = 4  # written in a training, evenly spread; the last one at its end


def last_checkpoint(folder: Path) -> Optional[str]:
    """The checkpoint that a training in this folder wrote last; None where it is gone."""
    pointer = folder / 'last_checkpoint'
    if not pointer.exists():
        return None
    # the pointer has the whole path, of where the store was then
    path = folder / Path(pointer.read_text().strip()).name
    return str(path) if path.is_file() else None


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
    checkpoint, notes = last_checkpoint(folder), folder / 'training.json'
    finished = checkpoint is not None and notes.exists()
    if not finished:  # or a training that is stopped now would be taken for an earlier one's end
        notes.unlink(missing_ok=True)
    if checkpoint is not None:
        cfg.load_from, cfg.resume = checkpoint, not finished
    runner = build_runner(cfg)
    if finished:  # as Runner.test does: some hooks begin here, or take what is loaded
        runner.call_hook('before_run')
        runner.load_or_resume()
        return runner
    runner.register_hook(Notes(folder))
    runner.train()
    return runner
