"""What the options of tools/train.py do to a config."""

import os.path as osp
from typing import Any, Optional

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from ..utils.configs import type_name
from ..utils.errors import UsageError
from ..utils.models import read_checkpoint
from .command_line import load_config

AMP_TYPES = {'OptimWrapper': 'AmpOptimWrapper', 'AFANOptimWrapper': 'AFANAmpOptimWrapper'}


def training_config(
    config: str,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: Optional[str] = None,
    **common: Any,
) -> Config:
    """The config of a training run.

    Args:
        config: A config file.
        amp: Whether to train with automatic mixed precision. Defaults to False.
        auto_scale_lr: Whether to scale the learning rate by batch size. Defaults to False.
        resume: The checkpoint to resume from, or 'auto' for the latest in the work folder. Defaults
            to None.
        common: See :func:`~afan_mm.cli.command_line.load_config`.

    Raises:
        UsageError: If an option does not fit the config, or a checkpoint cannot be read.
    """
    cfg = load_config(config, **common)
    if amp:
        enable_amp(cfg)
    if auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if resume is not None:
        set_resume(cfg, resume)
    return cfg


def enable_amp(cfg: Config) -> None:
    """Change the optim wrapper's type to its mixed-precision twin, with dynamic loss scaling; keep
    its other keys.
    """
    optim_wrapper = cfg.get('optim_wrapper')
    if optim_wrapper is None:
        raise UsageError('--amp needs a config with optim_wrapper, but got none')
    name = type_name(optim_wrapper) or 'OptimWrapper'
    if name in AMP_TYPES.values():
        return
    if name not in AMP_TYPES:
        allowed = ', '.join([*AMP_TYPES, *AMP_TYPES.values()])
        raise UsageError(f'--amp needs optim_wrapper.type to be one of {allowed}, but got {name}')
    optim_wrapper.type = AMP_TYPES[name]
    optim_wrapper.loss_scale = 'dynamic'


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by batch size, from the config's
    ``auto_scale_lr.base_batch_size``.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise UsageError(
            '--auto-scale-lr needs a config with auto_scale_lr.base_batch_size, but got none'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str) -> None:
    """Resume from a path, or with 'auto' from the work folder's latest checkpoint; where it has
    none, the run begins as the config says, with the weights of its ``load_from``.
    """
    latest = resume == 'auto'
    if latest and not osp.exists(osp.join(cfg.work_dir, 'last_checkpoint')):
        return
    read_checkpoint(find_latest_checkpoint(cfg.work_dir) if latest else resume)
    cfg.resume, cfg.load_from = True, None if latest else resume
