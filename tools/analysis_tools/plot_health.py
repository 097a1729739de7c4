"""Is the perturbation too weak, or too strong? python tools/analysis_tools/plot_health.py WORK_DIR
[WORK_DIR ...] [options]

Reads what AFANHook logged in each WORK_DIR (or scalars.json), draws the figures of every site over
the iterations with the losses, and says in words for each site whether its perturbation is too weak
to matter, strong enough to hurt, or neither, from which numbers, and what to change. Several runs
are drawn side by side. The logs of a resumed run are joined.

A perturbation is weak where the adversarial loss is less than 1 % above the clean loss of the same
tail, and strong from 100 %; all limits, and the reasons for them, are in health_report.py. Only a
run with AFANHook has these figures; the hook sends them every `interval` (50) iterations.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # command_line.py

from command_line import UsageError, run  # noqa: E402
from health_logs import read_run  # noqa: E402
from health_plot import draw  # noqa: E402
from health_report import HIGH_ZERO, LOW_MIX, STRONG_GAIN, WEAK_GAIN, judge, percent  # noqa: E402

from afan_mm.visualization.canvas import save_png  # noqa: E402


def parse_args(argv=None):
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


def read_runs(args):
    """The runs by name, with the wanted sites and a verdict for each."""
    runs = {}
    for path in args.runs:
        found = read_run(path)
        unknown = [site for site in args.sites or () if site not in found['sites']]
        if unknown:
            raise UsageError(
                f'--sites must be some of {", ".join(found["sites"])} in {path}, but got '
                f'{", ".join(unknown)}'
            )
        found['sites'] = {
            site: reports
            for site, reports in found['sites'].items()
            if not args.sites or site in args.sites
        }
        found['verdicts'] = {site: judge(reports) for site, reports in found['sites'].items()}
        runs[str(path)] = found
    return runs


def describe(name, found):
    """The verdicts on one run in words."""
    lines = [name]
    for site, verdict in found['verdicts'].items():
        medians = verdict['medians']
        lines += [
            f'  {site}: {verdict["verdict"].upper()}',
            f'    medians of {verdict["reports"]} reports, iterations {verdict["iters"][0]} to '
            f'{verdict["iters"][1]}:',
            f'      gain {medians["gain"]:.2g} = {percent(medians["relative_gain"])} of the clean '
            'loss '
            f'{medians["clean"]:.3g} (weak below {WEAK_GAIN:.0%}, strong from {STRONG_GAIN:.0%})',
            f'      mix ratio {medians["mix_ratio"]:.2f} (low below {LOW_MIX}), zero share '
            f'{medians["zero_share"]:.0%} '
            f'(high above {HIGH_ZERO:.0%}), delta norm {medians["delta_norm"]:.3g}, '
            f'not finite {medians["nonfinite_share"]:.0%}',
        ]
        lines += [f'    because: {reason}' for reason in verdict['reasons']]
        lines += [f'    change: {advice}' for advice in verdict['advice']]
    return '\n'.join(lines)


def check_outputs(args):
    """The file to draw into. Complains now about a file that could not be written in the end."""
    first = args.runs[0]
    out = args.out or (first if first.is_dir() else first.parent) / 'health.png'
    if out.suffix != '.png':
        raise UsageError(f'--out must end in .png, but got {out}')
    for option, path in (('--out', out), ('--json', args.json)):
        if path is not None and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise UsageError(
                f'{option} must be a file in a folder that can be written, but got {path}'
            )
    return out


def write_json(runs, path):
    """Written under another name first: a reader never meets half a file."""
    finite = json.loads(json.dumps(runs), parse_constant=lambda name: None)  # JSON has no NaN
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    temporary.write_text(json.dumps(finite, indent=1) + '\n')
    os.replace(temporary, path)


def main():
    args = parse_args()
    runs = read_runs(args)
    out = check_outputs(args)
    picture = draw(runs)
    try:
        save_png(picture, str(out))
        if args.json:
            write_json(runs, args.json)
    except OSError as error:
        raise UsageError(str(error)) from error
    print(
        '\n\n'.join(describe(name, found) for name, found in runs.items()) + f'\n\ndrawn in {out}'
    )


if __name__ == '__main__':
    run(main)
