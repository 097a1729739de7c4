"""Ablation figure: tools/analysis_tools/ablation.py REPORT.json [--out FILE.png] [--metric M]

REPORT.json is what tools/experiment.py wrote. Its arms '<panel>-<setting>', such as 'steps-3', are
drawn as in the paper's Figures 4 to 6: a panel for each factor, the seeds as a spread, the best
setting in red, the stock model as a line. configs/experiments/ablation_*.py are such experiments.
"""

import argparse
import os.path as osp
from typing import Optional, Sequence

from afan_mm.analysis.ablation import draw_ablation
from afan_mm.cli.command_line import run
from afan_mm.experiments.report import read_report
from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import check_output
from afan_mm.visualization import save_png


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('report', metavar='REPORT.json', help='of tools/experiment.py')
    parser.add_argument('--out', metavar='FILE.png', help='default: ablation.png beside the report')
    parser.add_argument('--metric', help='full name; default: the primary metric')
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    out = args.out or osp.join(osp.dirname(args.report), 'ablation.png')
    check_output('--out', out, ('.png',))
    try:
        save_png(draw_ablation(read_report(args.report), args.metric), out)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(f'ablation: {out}')


if __name__ == '__main__':
    run(main)
