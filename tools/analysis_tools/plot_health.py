"""Is the perturbation too weak, or too strong? python tools/analysis_tools/plot_health.py WORK_DIR
[WORK_DIR ...] [options]

Reads what AFANHook logged in each WORK_DIR (or scalars.json), draws the figures of every site over
the iterations with the losses, and says in words for each site whether its perturbation is too weak
to matter, strong enough to hurt, or neither, from which numbers, and what to change. Several runs
are drawn side by side. The logs of a resumed run are joined.

A perturbation is weak where the adversarial loss is less than 1 % above the clean loss of the same
tail, and strong from 100 %; all limits, and the reasons for them, are in
afan_mm/analysis/run_health.py. Only a run with AFANHook has these figures; the hook sends them
every `interval` (50) iterations.
"""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from afan_mm.analysis.run_health import judged_run, verdicts_in_words
from afan_mm.analysis.run_health_plot import draw
from afan_mm.cli.command_line import run
from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import check_output, write_json
from afan_mm.visualization.canvas import save_png


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'runs',
        nargs='+',
        type=Path,
        metavar='WORK_DIR',
        help='work folder of a run, or its scalars.json',
    )
    parser.add_argument(
        '--out', type=Path, metavar='FILE.png', help='default: health.png in the first WORK_DIR'
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write the verdicts, and the figures they rest on'
    )
    parser.add_argument('--sites', nargs='+', metavar='NAME', help='only these; default: all')
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    runs = {str(path): judged_run(path, args.sites) for path in args.runs}
    first = args.runs[0]
    out = args.out or (first if first.is_dir() else first.parent) / 'health.png'
    check_output('--out', out, ['.png'])
    if args.json:
        check_output('--json', args.json)
    picture = draw(runs)
    try:
        save_png(picture, str(out))
        if args.json:
            write_json(args.json, runs)
    except OSError as error:
        raise UsageError(str(error)) from error
    print('\n\n'.join(verdicts_in_words(name, found) for name, found in runs.items()))
    print(f'\ndrawn in {out}')


if __name__ == '__main__':
    run(main)
