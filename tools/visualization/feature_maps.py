"""Draw what A-FAN does to the features: python tools/visualization/feature_maps.py CONFIG
CHECKPOINT [IMAGE ...] [options]

For each image and each site one picture, as in the paper's Figures 7 to 9: at the left the image
and the clean feature, then a column for each strength with the augmented and the normalised
feature, and below their differences to the clean one. CONFIG must have A-FAN sites;
tools/convert_config.py writes such a config of a stock one. The first stages show most, for
instance --cfg-options model.neck.afan.site=backbone.layer1.

The direction of a perturbation comes from a loss. An image of the config's data (--split) is
compared with its annotation; any other image has none, and is compared with the model's own
prediction. The picture and the log say which. The model may be a detector, a segmentor or a
classifier, and its images must be files; it is in evaluation mode, and moments are those of the one
image.
"""

import argparse
from typing import Optional, Sequence

from afan_mm.cli.command_line import add_config_options, run
from afan_mm.cli.feature_maps import draw_feature_maps
from afan_mm.cli.targeted_images import SPLITS
from afan_mm.utils.configs import read_config
from afan_mm.utils.errors import UsageError
from afan_mm.visualization import CHANNELS


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file of this model')
    parser.add_argument(
        'images',
        nargs='*',
        metavar='IMAGE',
        help='image files, folders, or names of images of the data',
    )
    parser.add_argument(
        '--indices',
        nargs='+',
        type=int,
        default=[],
        metavar='I',
        help='images of the data by number, from 0',
    )
    parser.add_argument(
        '--split',
        choices=SPLITS,
        default='val',
        help='data with the annotations; default: val. Images '
        'are prepared by the pipeline for validation, without random changes',
    )
    parser.add_argument('--sites', nargs='+', metavar='NAME', help='names of sites; default: all')
    parser.add_argument(
        '--num-strengths',
        type=int,
        metavar='K',
        help='strengths, evenly spaced up to epsilon; default: as many as the site has',
    )
    add_drawing_options(parser)
    parser.add_argument('--device', default=None, help='default: a GPU where there is one')
    args = parser.parse_args(argv)
    for name in ('num_strengths', 'magnify', 'topk', 'alpha'):
        value = getattr(args, name)
        if value is not None and not value > 0 or name == 'alpha' and value > 1:
            allowed = 'in (0, 1]' if name == 'alpha' else '> 0'
            parser.error(f'--{name.replace("_", "-")} must be {allowed}, but got {value}')
    return args


def add_drawing_options(parser: argparse.ArgumentParser) -> None:
    """Options for what a picture looks like, and where it goes."""
    parser.add_argument(
        '--magnify',
        type=float,
        default=20,
        help='factor on the perturbation; default: 20, as in the paper',
    )
    parser.add_argument(
        '--channels',
        choices=CHANNELS,
        default='squeeze_mean',
        help='mean over the channels (default), the channel with the largest sum, or '
        'a montage of those with the largest sums; vectors show their strongest channels',
    )
    parser.add_argument(
        '--topk', type=int, default=9, metavar='N', help='channels of --channels topk; default: 9'
    )
    parser.add_argument(
        '--alpha',
        type=float,
        default=1,
        help='weight of a feature map over the image, in (0, 1]; default: 1',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='detections above this score stand for a missing annotation',
    )
    parser.add_argument(
        '--out-dir', default='feature_maps', help='folder for the pictures; default: feature_maps'
    )


def main() -> None:
    options = vars(parse_args())
    cfg = read_config(options.pop('config'), options.pop('cfg_options'))
    try:
        for line in draw_feature_maps(cfg, **options):
            print(line)
    except OSError as error:
        raise UsageError(f'--out-dir: {error}') from error


if __name__ == '__main__':
    run(main)
