"""Write the A-FAN config of a stock one: python tools/convert_config.py CONFIG [options]

CONFIG is a config file, or a name such as mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py. The
new config inherits from it, changes the components that A-FAN has a place in, and says in comments
why these. It runs under the stock tools.
"""

import argparse
import os.path as osp
from typing import Optional, Sequence

from afan_mm.cli.command_line import quotient, run
from afan_mm.conversion.config_file import converted_file, write_config
from afan_mm.conversion.late import MAX_TAIL_SHARE
from afan_mm.conversion.presets import PRESETS
from afan_mm.utils.errors import UsageError

OWN_OPTIONS = ('config', 'out', 'force', 'print', 'sites', 'preset')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config', help='config file, or LIBRARY::NAME of mmdet, mmseg or mmpretrain'
    )
    parser.add_argument(
        '--out',
        metavar='FILE',
        help='where to write; default: afan_<name of the config>.py in this folder',
    )
    parser.add_argument('--force', action='store_true', help='replace FILE if it exists')
    parser.add_argument('--print', action='store_true', help='print the config, and write nothing')
    parser.add_argument(
        '--sites',
        type=lambda text: text.split(','),
        metavar='SITE[,SITE...]',
        help="neck (the backbone's features), output (the neck's), head, or a path such as "
        'backbone.layer3 or '
        'roi_head.map; or late, alone: those with a small share of the training step after them, '
        'which is measured; '
        'default: late for --preset recommended, otherwise neck,head, as far as they fit',
    )
    parser.add_argument(
        '--max-tail-share',
        type=float,
        default=argparse.SUPPRESS,
        metavar='SHARE',
        help=f'the largest such share of --sites late; default: {MAX_TAIL_SHARE}',
    )
    parser.add_argument(
        '--preset',
        choices=PRESETS,
        default='recommended',
        help='late sites perturbed together, which helped in the study of this project, or '
        'settings of the paper or of its released code, for the data set of the config; '
        'default: %(default)s',
    )
    add_settings(parser)
    return parser.parse_args(argv)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Options for settings of A-FAN; one that is not given is not in the arguments."""
    settings = parser.add_argument_group(
        'settings of every site', argument_default=argparse.SUPPRESS
    )
    settings.add_argument(
        '--epsilon',
        type=quotient,
        help='largest strength, such as 0.4/255; default: that of the preset',
    )
    settings.add_argument(
        '--num-strengths',
        type=int,
        metavar='K',
        help='strengths a step; default: that of the preset',
    )
    settings.add_argument(
        '--num-steps', type=int, metavar='N', help='PGD steps; default: that of the preset'
    )
    settings.add_argument(
        '--moments',
        type=lambda text: None if text == 'none' else text,
        help='batch, instance, layer, group, positional or none; default: those of the preset',
    )
    settings.add_argument(
        '--detach',
        action='store_true',
        help='adversarial losses train the layers after the site only; default: as the preset',
    )
    settings.add_argument('--estimator', help='sum, single or per_sample; default: sum')
    settings.add_argument(
        '--interval',
        type=int,
        metavar='N',
        help='adversarial passes in every N-th iteration; default: 1',
    )


def target(args: argparse.Namespace) -> str:
    """Where to write; UsageError where that is not possible."""
    stem = osp.splitext(osp.basename(args.config.rpartition('::')[2]))[0]
    path = args.out or f'afan_{stem}.py'
    if not path.endswith('.py'):
        raise UsageError(f'--out must end in .py, but got {path}')
    if args.print:
        return path
    if not osp.isdir(osp.dirname(path) or '.'):
        raise UsageError(f'--out must be in a folder that exists, but got {path}')
    if osp.exists(path) and osp.exists(args.config) and osp.samefile(path, args.config):
        raise UsageError(f'--out must be another file than the config, but got {path}')
    if osp.exists(path) and not args.force:
        raise UsageError(f'{path} exists; --force replaces it')
    return path


def main() -> None:
    args = parse_args()
    path = target(args)
    afan = {key: value for key, value in vars(args).items() if key not in OWN_OPTIONS}
    text, expected, why = converted_file(args.config, path, args.sites, args.preset, **afan)
    if args.print:
        print(text, end='')
    else:
        write_config(path, text, expected)
        print(f'wrote {path}', *why, sep='\n')
        print('Others: --sites, --preset paper, and the options that --help lists.')


if __name__ == '__main__':
    run(main)
