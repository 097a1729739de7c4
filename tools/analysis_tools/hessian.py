"""Curvature of the training loss: tools/analysis_tools/hessian.py CONFIG [NAME=]CHECKPOINT ...

Spectral norm (largest eigenvalues, by Lanczos) and trace (by Hutchinson's estimator, or Hutch++
where its error is smaller) of the Hessian of the training loss with respect to the weights, each
with its error, as in the paper's Table 1; with --plot also the density of all eigenvalues. Any
model can be looked at, stock or trained with A-FAN: the loss is the clean one, in evaluation mode,
on the same images for all checkpoints.

Weights that the loss reads through an operator without a second derivative, such as a detector's
RoIAlign, are left out: the figures are then those of the tail, and the output says so.

An interrupted run goes on where it was, in --work-dir.
"""

import argparse
from typing import Optional, Sequence

from afan_mm.analysis.commands import default_device, hessian_of_checkpoints
from afan_mm.analysis.curvature import CurvatureSettings
from afan_mm.analysis.curvature_report import curvature_notes, curvature_table, draw_density
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
    parser.add_argument(
        '--eigenvalues',
        type=positive_integer,
        default=5,
        metavar='K',
        help='largest in magnitude; default: 5',
    )
    parser.add_argument(
        '--probes',
        type=positive_integer,
        default=30,
        metavar='N',
        help='random vectors of the trace; default: 30',
    )
    parser.add_argument('--plot', metavar='FILE.png', help='draw the density of the eigenvalues')
    parser.add_argument(
        '--density-probes', type=positive_integer, default=3, metavar='N', help='default: 3'
    )
    parser.add_argument(
        '--density-steps', type=positive_integer, default=40, metavar='N', help='default: 40'
    )
    parser.add_argument(
        '--parameters', default='', metavar='REGEX', help='only weights whose names fit'
    )
    parser.add_argument('--tol', type=float, default=1e-3, help='of the eigenvalues; default: 1e-3')
    parser.add_argument('--seed', type=int, default=0, help='of data and vectors; default: 0')
    parser.add_argument('--json', metavar='FILE', help='write all figures')
    parser.add_argument(
        '--work-dir',
        default='work_dirs/hessian',
        help='where an interrupted run keeps what is done: each product of Lanczos, 4 bytes for '
        'every weight, until it ends, and then the vectors it found, 16 K bytes for every weight, '
        'until the trace is done; default: work_dirs/hessian',
    )
    parser.add_argument('--device', default=None, help='default: a GPU where there is one')
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    if args.json:
        check_output('--json', args.json)
    if args.plot:
        check_output('--plot', args.plot, ('.png',))
    cfg = read_config(args.config, args.cfg_options)
    check_data(cfg, [f'{args.split}_dataloader'])
    settings = CurvatureSettings(
        args.eigenvalues,
        args.probes,
        args.density_probes if args.plot else 0,
        args.density_steps,
        args.tol,
        args.seed,
    )
    try:
        results = hessian_of_checkpoints(
            cfg,
            args.checkpoints,
            settings,
            None if args.all else args.batches,
            args.split,
            args.parameters,
            args.work_dir,
            args.json,
            args.device or default_device(),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(curvature_table(results))
    for name, result in results.items():
        print(f'{name}:')
        for note in curvature_notes(result):
            print(f'  {note}')
    if args.plot:
        save_png(draw_density(results), args.plot)
        print(f'density: {args.plot}')


if __name__ == '__main__':
    run(main, go_on='the same command goes on')
