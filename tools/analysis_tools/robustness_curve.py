"""Clean and robust figures over the strength of the attack: python
tools/analysis_tools/robustness_curve.py CONFIG CHECKPOINT [CONFIG CHECKPOINT ...] [options]

Runs `tools/test.py --robust` for every checkpoint and strength, prints a table and draws a curve.
Checkpoints with the same label are seeds of one experiment: their mean and standard deviation are
shown. The step grows with epsilon as in the paper's protocol for the host (0.15 epsilon for
detectors, 0.125 epsilon for segmentors, ten steps).

    --epsilons 0 1 2 4 8         radii of the attack, in 1/255
    --labels stock stock afan    one for each checkpoint; default: the names of the configs
    --num-images 50              the first images of the test set only
    --json FILE                  all figures; a sweep that is started again reuses those of the same
                                 config, weights, data and attack
    --plot FILE                  the curve
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # command_line.py

from command_line import UsageError, run  # noqa: E402
from curve_report import FORMATS, caption, figures, plot, table  # noqa: E402
from curve_runs import evaluate, key_of, prepare  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,  # noqa: E402
    TimeRemainingColumn,
)

from afan_mm.robustness.attack_settings import ATTACKS  # noqa: E402


def parse_args(argv=None):
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
        '--num-images', type=int, metavar='N', help='the first N images; default: all'
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


def radius(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError(
            f'must be a number in [0, 255], in 1/255, but got {text!r}'
        )
    return value


def check_outputs(args):
    """Complain now about what could not be written in the end."""
    for option, path in (
        ('--work-dir', args.work_dir / 'log.txt'),
        ('--json', args.json),
        ('--plot', args.plot),
    ):
        if path is not None:
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
                raise UsageError(
                    f'{option} must be in a folder that can be written, but got {path}'
                )
    if args.plot is not None and args.plot.suffix[1:] not in FORMATS:
        raise UsageError(f'--plot must end in one of .{", .".join(FORMATS)}, but got {args.plot}')


def write(path, content):
    """The whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    part.write_bytes(content)
    os.replace(part, path)


def read(path):
    """The figures of an earlier sweep, by their key."""
    if not path.exists():
        return {}
    try:
        return {entry['key']: entry for entry in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f'--json must be a file of this tool, or none, but got {path}') from error


def sweep(runs, args):
    """The figures of every checkpoint at every strength; each is kept in the file as soon as it is
    there.
    """
    known, entries = read(args.json), []
    columns = (
        TextColumn('evaluations'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn('passed,'),
        TimeRemainingColumn(),
        TextColumn('left'),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for epsilon, each in progress.track(
            [(epsilon, each) for epsilon in args.epsilons for each in runs]
        ):
            key = key_of(each, epsilon, args)
            entry = known.get(key) or evaluate(each, epsilon, args, args.work_dir / key)
            known[key] = dict(
                entry, key=key, config=each['config'], epsilon=epsilon, label=each['label']
            )
            entries.append(known[key])
            write(args.json, json.dumps(list(known.values()), indent=1).encode())
            select(entries, args.metric)  # an unknown metric need not wait for the last evaluation
    return entries


def select(entries, metric):
    try:
        return figures(entries, metric)
    except KeyError as error:
        raise UsageError(
            f'--metric must be one of {", ".join(error.args[0])}, but got {metric}'
        ) from error


def main():
    args = parse_args()
    check_outputs(args)
    runs = prepare(args)
    entries = sweep(runs, args)
    metric, curves = select(entries, args.metric)
    about = caption(metric, entries)
    print(table(about, curves))
    if args.plot is not None:
        write(args.plot, plot(metric, about, curves, args.plot.suffix[1:]))


if __name__ == '__main__':
    run(main)
