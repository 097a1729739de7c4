"""Gains side by side: tools/analysis_tools/gains.py ARM REFERENCE[,…] NAME=REPORT.json […]

Prints the difference of an arm to each reference, paired by seed, in each of several experiments,
and draws it with --out. REPORT.json is what tools/experiment.py wrote; arms and seeds of one
experiment that were reported at different times are read together from REPORT.json,OTHER.json,
which must agree where both have a run.
"""

import argparse
from typing import Optional, Sequence

from afan_mm.analysis.gains import draw_gains, find_gain, gain_table
from afan_mm.cli.command_line import run
from afan_mm.experiments.report import read_report
from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import check_output
from afan_mm.visualization import save_png


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('arm', help='for instance late')
    parser.add_argument('reference', help='for instance stock, or stock,noise')
    parser.add_argument('experiments', metavar='NAME=REPORT.json', nargs='+')
    parser.add_argument('--metric', help='full name; default: the primary one of the first report')
    parser.add_argument('--out', metavar='FILE.png', help='draw it')
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    if args.out:
        check_output('--out', args.out, ('.png',))
    reports = {}
    for each in args.experiments:
        name, sign, paths = each.partition('=')
        if not sign:
            raise UsageError(f'an experiment must be NAME=REPORT.json, but got {each}')
        reports[name] = [read_report(path) for path in paths.split(',')]
    references = args.reference.split(',')
    metric = args.metric or next(iter(reports.values()))[0]['primary']
    try:
        gains = [
            find_gain(
                f'{name}: {args.arm} − {reference}' if len(references) > 1 else name,
                several,
                args.arm,
                reference,
                metric,
            )
            for name, several in reports.items()
            for reference in references
        ]
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(gain_table(gains))
    if args.out:
        save_png(draw_gains(gains, metric), args.out)
        print(f'gains: {args.out}')


if __name__ == '__main__':
    run(main)
