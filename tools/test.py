"""Evaluate a model: python tools/test.py CONFIG CHECKPOINT [options]

The options are those of the libraries' own tools and mean what they mean there: ``--out`` is a
pickle file of predictions for a detector or a classifier, a folder of predicted masks for a
segmentor. Metrics go to a json file in the work folder. Relative paths in a config, such as its
data, count from the current folder.
"""

import argparse
from typing import Optional, Sequence

from afan_mm.cli.command_line import add_common_options, run
from afan_mm.cli.data_check import check_data
from afan_mm.cli.evaluation import evaluate, evaluation_config
from afan_mm.robustness.corruptions import SEVERITIES
from afan_mm.robustness.settings import ATTACKS


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--any-checkpoint',
        action='store_true',
        help='evaluate even if the checkpoint misses weights of the model, or has others',
    )
    parser.add_argument(
        '--out',
        help='save predictions: a .pkl file (detector, classifier), a folder of masks (segmentor)',
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='save images with predictions drawn on them; for a detector this is inside '
        'the work folder, under the time of the run',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show keeps an image'
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--robust',
        nargs='?',
        const=True,
        choices=ATTACKS,
        metavar='ATTACK',
        help="evaluate clean images and images perturbed against the model, side by side: 'pgd' "
        "(default, unless the config names one), for a segmentor also 'segpgd' or 'cospgd', for a "
        "classifier 'autoattack', with the paper's strengths; change them with --cfg-options, e.g. "
        'test_cfg.num_steps=20 test_cfg.epsilon=4/255. With --show-dir, pictures of both. Start an '
        'interrupted run again, and it goes on',
    )
    parser.add_argument(
        '--corruptions',
        nargs='*',
        metavar='NAME',
        help='evaluate clean images and images with these common corruptions (without a name: the '
        "config's, or the fifteen of the benchmark), and print mPC and rPC; corruptions.json and "
        'corruptions.png go to the work folder',
    )
    parser.add_argument(
        '--severities',
        nargs='+',
        type=int,
        choices=SEVERITIES,
        help='of the corruptions; default: those of the config, or 1 2 3 4 5',
    )
    return parser.parse_args(argv)


def main() -> None:
    options = vars(parse_args())
    exact = not options.pop('any_checkpoint')
    cfg = evaluation_config(**options)
    check_data(cfg, ['test_dataloader'])
    evaluate(cfg, exact)


if __name__ == '__main__':
    run(main, go_on='the same command starts anew, with --robust it goes on')
