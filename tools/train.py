"""Train a model: python tools/train.py CONFIG [options]

The options are those of the libraries' own tools, for all of them, and A-FAN's optim wrapper is
kept where these would replace or refuse it (``--amp``). With ``--resume`` an interrupted training
goes on. Relative paths in a config, such as its data, count from the current folder.
"""

import argparse
from typing import Optional, Sequence

from mmengine.device import get_device

from afan_mm.cli.command_line import add_common_options, run
from afan_mm.cli.config_check import check_model
from afan_mm.cli.data_check import check_data
from afan_mm.cli.runner import build_runner
from afan_mm.cli.training import training_config
from afan_mm.utils.errors import UsageError


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
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


def main() -> None:
    args = parse_args()
    cfg = training_config(**vars(args))
    if args.amp and get_device() == 'cpu':
        raise UsageError('--amp needs an accelerator, but there is only a CPU')
    check_data(
        cfg,
        ['train_dataloader']
        if cfg.get('val_cfg') is None
        else ['train_dataloader', 'val_dataloader'],
    )
    check_model(cfg)
    build_runner(cfg).train()


if __name__ == '__main__':
    run(main, go_on='--resume goes on from the last checkpoint in the work folder')
