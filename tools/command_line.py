"""What tools/train.py and tools/test.py share: common options, reading inputs, and one line for bad
input.
"""

import atexit
import os
import os.path as osp
import sys
from datetime import timedelta

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner

import afan_mm  # noqa: F401  lets torch load mmengine's checkpoints, those of stock configs included


class UsageError(Exception):
    """Something the user gave cannot be used; the message is all that they need to see."""


def add_config_options(parser):
    """The config and what changes it, for every tool that reads one."""
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_cfg.max_iters=100 or key="[a,b]", '
        'also nested; quote the value, and leave no space in it',
    )


def add_common_options(parser):
    """Options that train.py and test.py have, spelt as in the hosts' own tools."""
    add_config_options(parser)
    parser.add_argument(
        '--work-dir',
        help='folder for logs, checkpoints and metrics; default: work_dirs/<config name>',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher',
    )
    # torch's launchers pass the rank under one name or the other, depending on their age.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def read_config(args):
    """The config with ``--cfg-options`` applied."""
    if not osp.isfile(args.config):
        raise UsageError(f'config must be a file, but got {args.config}')
    try:
        cfg = Config.fromfile(args.config)
    except Exception as error:  # a config is a program and may fail in any way
        raise UsageError(f'cannot read config {args.config}: {describe(error)}') from error
    if args.cfg_options:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except Exception as error:
            raise UsageError(
                f'--cfg-options do not fit {args.config}: {describe(error)}'
            ) from error
    return cfg


def load_config(args):
    """Read the config and apply the common options. ``--work-dir`` wins over the config, the config
    over its own name.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    return cfg


def check_checkpoint(path):
    """Complain now about a checkpoint that the runner could not load later. Addresses of stores are
    left to mmengine.
    """
    if '://' not in path:
        read_checkpoint(path)


def read_checkpoint(path):
    """The dict that a checkpoint file holds."""
    if not osp.isfile(path):
        raise UsageError(f'checkpoint must be a file, but got {path}')
    try:
        content = torch.load(path, map_location='cpu')
    except Exception as error:
        # truncated, of another kind, or refused as unsafe: torch raises many types
        raise UsageError(f'cannot read checkpoint {path}: {describe(error)}') from error
    if not isinstance(content, dict):
        raise UsageError(
            f'checkpoint must hold a dict, but {path} holds a {type(content).__name__}'
        )
    return content


def describe(error):
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__


def find_host(cfg, option):
    """The library whose own tool says what ``option`` means."""
    host = cfg.get('default_scope')
    if host not in ('mmdet', 'mmseg'):
        raise UsageError(
            f"{option} needs a config with default_scope 'mmdet' or 'mmseg', but got {host!r}"
        )
    return host


class CPURunner(Runner):
    """mmengine's runner in one of several processes without an accelerator, where its own set-up
    asks for CUDA.
    """

    def setup_env(self, env_cfg):
        timeout = env_cfg.get('dist_cfg', {}).get('timeout')
        torch.distributed.init_process_group(
            'gloo', **({} if timeout is None else dict(timeout=timedelta(seconds=timeout)))
        )
        atexit.register(torch.distributed.destroy_process_group)
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg, model):
        if any('SyncBatchNorm' in type(module).__name__ for module in model.modules()):
            self.logger.warning(
                'SyncBN does not run on a CPU: its layers become BatchNorm. Each process '
                'normalises by its own '
                'batch, and a checkpoint holds the running statistics of the first.'
            )
        settings = model_wrapper_cfg or dict(
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False),
        )
        return super().wrap_model(dict(settings, device_ids=None), revert_sync_batchnorm(model))


def build_runner(cfg):
    """The runner that the config names, mmengine's own by default."""
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


def run(main):
    """Call ``main``; turn a :class:`UsageError` into one line and exit code 2, as argparse does
    with its own.
    """
    try:
        main()
    except UsageError as error:
        print(f'{osp.basename(sys.argv[0])}: error: {error}', file=sys.stderr)
        sys.exit(2)
