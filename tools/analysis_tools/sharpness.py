"""Sharpness in feature space: tools/analysis_tools/sharpness.py CONFIG [NAME=]CHECKPOINT ...

For each site and checkpoint, how much the loss rises over the validation set when the feature is
perturbed: along the adversarial direction that A-FAN would train on, and along random ones of the
same size; mean and quantiles over the images. It answers whether A-FAN flattened what it attacks.

CONFIG says which sites there are; a stock one gets the paper's. Checkpoints of stock and of A-FAN
training both fit. Features of different models differ in scale: compare them with --epsilon-unit
std.
"""

import argparse
from typing import Optional, Sequence

from afan_mm.analysis.commands import default_device, sharpness_of_checkpoints
from afan_mm.analysis.sharpness import SharpnessSettings
from afan_mm.analysis.sharpness_report import draw_sharpness, sharpness_table
from afan_mm.cli.command_line import add_config_options, positive_integer, quotient, run
from afan_mm.cli.data_check import check_data
from afan_mm.settings import EPSILON_UNITS
from afan_mm.utils.configs import read_config
from afan_mm.utils.errors import UsageError
from afan_mm.utils.files import check_output
from afan_mm.visualization import save_png


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_options(parser)
    parser.add_argument('checkpoints', nargs='+', metavar='[NAME=]CHECKPOINT')
    parser.add_argument(
        '--images',
        type=positive_integer,
        default=100,
        metavar='N',
        help='drawn from the seed, and kept in memory; all where there are fewer; default: 100',
    )
    parser.add_argument(
        '--split', choices=('train', 'val', 'test'), default='val', help='default: val'
    )
    parser.add_argument('--sites', nargs='+', metavar='NAME', help='names of sites; default: all')
    parser.add_argument(
        '--points', type=positive_integer, default=8, help='strengths up to epsilon; default: 8'
    )
    parser.add_argument(
        '--random', type=positive_integer, default=4, help='directions an image; default: 4'
    )
    parser.add_argument(
        '--epsilon', type=quotient, help='largest strength; default: that of the site'
    )
    parser.add_argument(
        '--epsilon-unit', choices=EPSILON_UNITS, help='unit of epsilon; default: that of the site'
    )
    parser.add_argument('--num-steps', type=positive_integer, help='PGD steps of the direction')
    parser.add_argument('--seed', type=int, default=0, help='of random directions; default: 0')
    parser.add_argument('--json', metavar='FILE', help='write all figures')
    parser.add_argument(
        '--plot', default='sharpness.png', metavar='FILE.png', help='default: sharpness.png'
    )
    parser.add_argument('--device', default=None, help='default: a GPU where there is one')
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    check_output('--plot', args.plot, ('.png',))
    if args.json:
        check_output('--json', args.json)
    cfg = read_config(args.config, args.cfg_options)
    check_data(cfg, [f'{args.split}_dataloader'])
    chosen = {key: getattr(args, key) for key in ('epsilon', 'epsilon_unit', 'num_steps')}
    settings = SharpnessSettings(
        args.points,
        args.random,
        args.sites,
        {key: value for key, value in chosen.items() if value is not None},
        args.seed,
    )
    try:
        results = sharpness_of_checkpoints(
            cfg,
            args.checkpoints,
            settings,
            args.images,
            args.split,
            args.json,
            args.device or default_device(),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(sharpness_table(results))
    save_png(draw_sharpness(results), args.plot)
    print(f'curves: {args.plot}')


if __name__ == '__main__':
    run(main)
