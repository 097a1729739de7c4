"""Loss landscape: tools/analysis_tools/landscape.py CONFIG [NAME=]CHECKPOINT ... --out-dir DIR

The training loss around each checkpoint along random filter-normalised directions (Li et al.,
2018), as in the paper's Figure 3: one direction (curves of all checkpoints in one picture) or, with
--points-y, two (contours and surfaces, side by side on one scale). With --line the loss on the
straight line from the first checkpoint to the second.

Random directions leave biases, norm layers and their statistics as they are; a line moves them too.
The numbers go to landscape.json in DIR, and a run that was interrupted goes on there.
"""

import argparse
import math
import os.path as osp
from typing import Optional, Sequence

import numpy as np

from afan_mm.analysis.commands import default_device, landscape_of_checkpoints
from afan_mm.analysis.landscape_plot import draw_contours, draw_curves, draw_surface
from afan_mm.cli.command_line import add_config_options, positive_integer, run
from afan_mm.cli.data_check import check_data
from afan_mm.utils.configs import read_config
from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import check_output
from afan_mm.visualization import save_png

SPLITS = ('train', 'val', 'test')


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_options(parser)
    parser.add_argument('checkpoints', nargs='+', metavar='[NAME=]CHECKPOINT')
    parser.add_argument(
        '--range',
        nargs=2,
        type=float,
        metavar=('LOW', 'HIGH'),
        help="steps, in units of each filter's norm; default: -1 1, and -0.5 1.5 with --line",
    )
    parser.add_argument(
        '--points', type=positive_integer, default=21, help='along each direction; default: 21'
    )
    parser.add_argument(
        '--points-y', type=positive_integer, help='along a second direction, for a plane'
    )
    parser.add_argument('--line', action='store_true', help='between two checkpoints')
    parser.add_argument('--log', action='store_true', help='logarithmic axis or colours')
    parser.add_argument(
        '--batches',
        type=positive_integer,
        default=4,
        metavar='N',
        help='batches of the data, of one image each but for --split train; default: 4',
    )
    parser.add_argument(
        '--all', action='store_true', help='all batches of an epoch; their images stay in memory'
    )
    parser.add_argument('--split', choices=SPLITS, default='train', help='default: train')
    parser.add_argument('--seed', type=int, default=0, help='of data and directions; default: 0')
    parser.add_argument(
        '--processes', type=positive_integer, default=1, help='points at once; default: 1'
    )
    parser.add_argument('--out-dir', default='landscape', help='default: landscape')
    parser.add_argument('--device', default=None, help='default: a GPU where there is one')
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    check_output('--out-dir', osp.join(args.out_dir, ''))
    low, high = args.range or ((-0.5, 1.5) if args.line else (-1.0, 1.0))
    if not -math.inf < low < high < math.inf:
        raise UsageError(
            f'--range must be two finite numbers, LOW < HIGH, but got {low:g} {high:g}'
        )
    cfg = read_config(args.config, args.cfg_options)
    check_data(cfg, [f'{args.split}_dataloader'])
    counts = [args.points] if args.points_y is None else [args.points, args.points_y]
    numbers = osp.join(args.out_dir, 'landscape.json')
    try:
        result = landscape_of_checkpoints(
            cfg,
            args.checkpoints,
            [np.linspace(low, high, count).tolist() for count in counts],
            args.line,
            None if args.all else args.batches,
            args.split,
            args.seed,
            args.processes,
            numbers,
            args.device or default_device(),
        )
        pictures = dict(curves=draw_curves(result, args.log)) if len(counts) == 1 else {}
        if not pictures:
            pictures = dict(
                contours=draw_contours(result, args.log), surface=draw_surface(result, args.log)
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f'numbers: {numbers}')
    for name, picture in pictures.items():
        path = osp.join(args.out_dir, f'{name}.png')
        save_png(picture, path)
        print(f'{name}: {path}')


if __name__ == '__main__':
    run(main, go_on='the same command goes on')
