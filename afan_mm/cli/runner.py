"""The runner of a config, on accelerators and on CPUs."""

import atexit
from datetime import timedelta
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from ..utils.errors import UsageError


class CPURunner(Runner):
    """mmengine's runner in one of several processes without an accelerator, where its own set-up
    asks for CUDA.
    """

    def setup_env(self, env_cfg: dict) -> None:
        timeout = env_cfg.get('dist_cfg', {}).get('timeout')
        torch.distributed.init_process_group(
            'gloo', **({} if timeout is None else dict(timeout=timedelta(seconds=timeout)))
        )
        atexit.register(torch.distributed.destroy_process_group)
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: Optional[dict], model: nn.Module) -> nn.Module:
        if any('SyncBatchNorm' in type(module).__name__ for module in model.modules()):
            self.logger.warning(
                'SyncBN does not run on a CPU: its layers become BatchNorm. Each process '
                'normalises by its own batch, and a checkpoint holds the running statistics of '
                'the first.'
            )
        settings = model_wrapper_cfg or dict(
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False),
        )
        return super().wrap_model(dict(settings, device_ids=None), revert_sync_batchnorm(model))


def build_runner(cfg: Config) -> Runner:
    """The runner that the config names, mmengine's own by default."""
    if cfg.get('default_scope') == 'mmdet':
        from mmdet.utils import setup_cache_size_limit_of_dynamo  # as its own tools do

        setup_cache_size_limit_of_dynamo()
    if 'runner_type' in cfg:
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        return RUNNERS.build(cfg)
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return Runner.from_cfg(cfg)
    if cfg.launcher != 'pytorch':
        raise UsageError(
            "--launcher must be 'pytorch' or 'none' where there is only a CPU, but got "
            f'{cfg.launcher!r}'
        )
    return CPURunner.from_cfg(cfg)
