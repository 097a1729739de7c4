"""Clean and robust figures over the strength of the attack: python
tools/analysis_tools/robustness_curve.py CONFIG CHECKPOINT [CONFIG CHECKPOINT ...] [options]

Runs `tools/test.py --robust` for every checkpoint and strength, prints a table and draws a curve.
Checkpoints with the same label are seeds of one experiment: their mean and standard deviation are
shown. The step grows with epsilon as in the paper's protocol for the library (0.15 epsilon for
detectors, 0.125 epsilon for segmentors, ten steps).

    --epsilons 0 1 2 4 8         radii of the attack, in 1/255
    --labels stock stock afan    one for each checkpoint; default: the names of the configs
    --num-images 50              so many images of the test set, evenly spaced
    --json FILE                  all figures; a sweep that is started again goes on: it reuses those
                                 of the same config, weights, data and attack
    --plot FILE                  the curve
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Optional, Sequence

from afan_mm.analysis.robustness_curve import FORMATS, caption, figures, plot, table
from afan_mm.analysis.robustness_sweep import Sweep, prepare, run_sweep
from afan_mm.cli.command_line import run
from afan_mm.robustness.settings import ATTACKS
from afan_mm.utils.bar import progress_bar
from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import check_output, write

TEST = Path(__file__).resolve().parent.parent / 'test.py'


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('pairs', nargs='+', metavar='CONFIG CHECKPOINT')
    parser.add_argument(
        '--epsilons',
        nargs='+',
        type=radius,
        default=[0, 1, 2, 4, 8],
        help='in 1/255; default: 0 1 2 4 8',
    )
    parser.add_argument(
        '--labels', nargs='+', help='one for each checkpoint; default: the names of the configs'
    )
    parser.add_argument('--attack', choices=ATTACKS, default='pgd', help='default: %(default)s')
    parser.add_argument('--metric', help='default: the first that ends in mIoU or mAP')
    parser.add_argument(
        '--num-images', type=int, metavar='N', help='N images, evenly spaced; default: all'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/robustness_curve'),
        help='default: %(default)s',
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='default: curve.json in the work folder'
    )
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw the curve')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='override settings of every config',
    )
    args = parser.parse_args(argv)
    args.epsilons = sorted(set(args.epsilons))
    args.json = args.json or args.work_dir / 'curve.json'
    return args


def radius(text: str) -> float:
    """The type of --epsilons."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError(
            f'must be a number in [0, 255], in 1/255, but got {text!r}'
        )
    return value


def main() -> None:
    args = parse_args()
    check_output('--work-dir', f'{args.work_dir}/')
    check_output('--json', args.json)
    if args.plot is not None:
        check_output('--plot', args.plot, [f'.{name}' for name in FORMATS])
    if len(args.pairs) % 2:
        raise UsageError(f'every CONFIG needs a CHECKPOINT, but got {len(args.pairs)} paths')
    sweep = Sweep([sys.executable, str(TEST)], args.attack, args.num_images, args.cfg_options)
    runs = prepare(list(zip(args.pairs[::2], args.pairs[1::2])), sweep, args.labels)
    with progress_bar() as progress:
        track = partial(progress.track, description='evaluations')
        entries = run_sweep(
            runs, args.epsilons, sweep, args.json, args.work_dir, args.metric, track
        )
    metric, curves = figures(entries, args.metric)
    about = caption(metric, entries)
    print(table(about, curves))
    if args.plot is not None:
        write(args.plot, plot(metric, about, curves, args.plot.suffix[1:]))


if __name__ == '__main__':
    run(main, go_on='the same command goes on')
