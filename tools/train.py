"""Train a detector or a segmentor: python tools/train.py CONFIG [options]

The options are those of the hosts' own tools, for both hosts, and A-FAN's optim wrapper is kept
where these would replace or refuse it (``--amp``). Relative paths in a config, such as its data,
count from the current folder.
"""

import argparse
import os.path as osp

from command_line import (
    UsageError,
    add_common_options,
    build_runner,
    check_checkpoint,
    load_config,
    run,
)
from data_check import check_data
from mmengine.device import get_device
from mmengine.runner import find_latest_checkpoint

AMP_TYPES = {'OptimWrapper': 'AmpOptimWrapper', 'AFANOptimWrapper': 'AFANAmpOptimWrapper'}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint or, without one, from the latest in the work folder',
    )
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by batch size, from the config's "
        'auto_scale_lr.base_batch_size',
    )
    return parser.parse_args(argv)


def enable_amp(cfg):
    """Change the optim wrapper's type to its mixed-precision twin, with dynamic loss scaling; keep
    its other keys.
    """
    optim_wrapper = cfg.get('optim_wrapper')
    if optim_wrapper is None:
        raise UsageError('--amp needs a config with optim_wrapper, but got none')
    given = optim_wrapper.get('type', 'OptimWrapper')
    # 'mmengine.OptimWrapper', or a class
    name = given.rsplit('.', 1)[-1] if isinstance(given, str) else given.__name__
    if name in AMP_TYPES.values():
        return
    if name not in AMP_TYPES:
        allowed = ', '.join([*AMP_TYPES, *AMP_TYPES.values()])
        raise UsageError(f'--amp needs optim_wrapper.type to be one of {allowed}, but got {name}')
    optim_wrapper.type = AMP_TYPES[name]
    optim_wrapper.loss_scale = 'dynamic'


def enable_auto_scale_lr(cfg):
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise UsageError(
            '--auto-scale-lr needs a config with auto_scale_lr.base_batch_size, but got none'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg, resume):
    """Resume from a path, or with 'auto' from the work folder's latest checkpoint, if it has
    one.
    """
    cfg.resume = True
    cfg.load_from = None if resume == 'auto' else resume
    if resume != 'auto':
        check_checkpoint(resume)
    elif osp.exists(osp.join(cfg.work_dir, 'last_checkpoint')):
        check_checkpoint(find_latest_checkpoint(cfg.work_dir))


def configure(args):
    """The config with all options applied."""
    cfg = load_config(args)
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        enable_auto_scale_lr(cfg)
    if args.resume is not None:
        set_resume(cfg, args.resume)
    return cfg


def main():
    args = parse_args()
    cfg = configure(args)
    if args.amp and get_device() == 'cpu':
        raise UsageError('--amp needs an accelerator, but there is only a CPU')
    check_data(
        cfg,
        ['train_dataloader']
        if cfg.get('val_cfg') is None
        else ['train_dataloader', 'val_dataloader'],
    )
    build_runner(cfg).train()


if __name__ == '__main__':
    run(main)
