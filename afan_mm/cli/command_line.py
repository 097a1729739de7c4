"""What the commands share: common options, and one line for bad input."""

import argparse
import os
import os.path as osp
import sys
from typing import Any, Callable, Dict, Optional

from mmengine.config import Config, DictAction

from ..utils.checks import read_quotient
from ..utils.configs import read_config
from ..utils.errors import UsageError, describe, is_message
from ..utils.files import check_output
from .config_check import check_config


class ConfigOptions(DictAction):
    """``--cfg-options KEY=VALUE ...``; what is no such pair is an error of the user's."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        for pair in values:
            key, equals, _ = pair.partition('=')
            if not key or not equals:
                raise argparse.ArgumentError(self, f'must be KEY=VALUE, but got {pair!r}')
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # brackets that are not closed
            raise argparse.ArgumentError(self, str(error)) from error


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """The config and what changes it, for every tool that reads one."""
    parser.add_argument('config', help='config file, or mmdet::, mmseg:: or mmpretrain::NAME')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_cfg.max_iters=100 or key="[a,b]", '
        'also nested; quote the value, and leave no space in it',
    )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options that train.py and test.py have, spelt as in the libraries' own tools."""
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


def load_config(
    config: str,
    cfg_options: Optional[Dict[str, Any]] = None,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    local_rank: int = 0,
) -> Config:
    """The config of a run, with the common options applied.

    Args:
        config: A config file, or a name such as 'mmdet::NAME'.
        cfg_options: New values by key. Defaults to none.
        work_dir: Folder of the run. Defaults to that of the config, or else
            ``work_dirs/<name of the config>``.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'. Defaults to 'none'.
        local_rank: Of this process, where its launcher does not set ``LOCAL_RANK``. Defaults to 0.

    Raises:
        UsageError: See :func:`~afan_mm.utils.configs.read_config`.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    cfg = read_config(config, cfg_options)
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join(
            'work_dirs', osp.splitext(osp.basename(config.rpartition('::')[2]))[0]
        )
    check_config(cfg)
    check_output('--work-dir', osp.join(cfg.work_dir, ''))
    return cfg


def quotient(text: str) -> float:
    """The type of an option that is a number, or a quotient such as 0.4/255."""
    try:
        return read_quotient('it', text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)[len('it ') :]) from error


def positive_integer(text: str) -> int:
    """The type of an option that is an integer >= 1."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'must be an integer >= 1, but got {text!r}')
    return int(text)


def run(main: Callable[[], None], go_on: str = 'the same command starts anew') -> None:
    """Call ``main``. What the user gave wrong is one line and exit code 2, as argparse does with
    its own: a :class:`UsageError`, or an error that this package raises while it trains. Ctrl-C is
    one line and exit code 130.

    Args:
        go_on: What the user does after Ctrl-C.
    """
    name = osp.basename(sys.argv[0])
    try:
        main()
    except KeyboardInterrupt:
        print(f'\n{name}: interrupted; {go_on}', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, UsageError) and not is_message(error):
            raise
        text = str(error) if isinstance(error, UsageError) else describe(error)
        print(f'{name}: error: {text}', file=sys.stderr)
        sys.exit(2)
