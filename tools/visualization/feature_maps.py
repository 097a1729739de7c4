"""Draw what A-FAN does to the features: python tools/visualization/feature_maps.py CONFIG
CHECKPOINT [IMAGE ...] [options]

For each image and each site one picture, as in the paper's Figures 7 to 9: at the left the image
and the clean feature, then a column for each strength with the augmented and the normalised
feature, and below their differences to the clean one. CONFIG must have A-FAN sites;
tools/convert_config.py writes such a config of a stock one. The first stages show most, for
instance --cfg-options model.neck.afan.site=backbone.layer1.

The direction of a perturbation comes from a loss. An image of the config's data (--split) is
compared with its annotation; any other image has none, and is compared with the model's own
prediction. The picture and the log say which. The model is in evaluation mode, and moments are
those of the one image.
"""

import argparse
import os
import os.path as osp
import sys

import torch
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader

# where the tools' shared modules are
sys.path.insert(0, osp.join(osp.dirname(osp.abspath(__file__)), '..'))
from command_line import UsageError, add_config_options, describe, read_checkpoint, read_config, run  # noqa: E402
from data_check import check_data  # noqa: E402
from targeted_images import SPLITS, find_parts, find_sources, load  # noqa: E402

from afan_mm.site import declared_by, trained_modules  # noqa: E402
from afan_mm.visualization import CHANNELS, capture, choose_view, draw_site, save_png, to_rgb  # noqa: E402


def parse_args(argv=None):
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
    parser.add_argument('--device', default=None, help='default: a GPU where there is one')
    args = parser.parse_args(argv)
    for name in ('num_strengths', 'magnify', 'topk', 'alpha'):
        value = getattr(args, name)
        if value is not None and not value > 0 or name == 'alpha' and value > 1:
            allowed = 'in (0, 1]' if name == 'alpha' else '> 0'
            parser.error(f'--{name.replace("_", "-")} must be {allowed}, but got {value}')
    return args


def build_model(cfg, checkpoint, device):
    """The model of an A-FAN config with the weights of a checkpoint."""
    content = (
        CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
        if '://' in checkpoint
        else read_checkpoint(checkpoint)
    )
    weights = content.get('state_dict', content)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    sites = [settings for _, module in trained_modules(model) for settings in declared_by(module)]
    if not any(settings.num_strengths for settings in sites):
        raise UsageError(
            'the model of the config has no A-FAN site that is switched on; '
            'tools/convert_config.py writes the '
            'A-FAN config of a stock one'
        )
    expected = model.state_dict()
    wrong = {
        'missing': [key for key in expected if key not in weights],
        'of another shape': [
            key for key in expected if key in weights and weights[key].shape != expected[key].shape
        ],
        'unknown': [key for key in weights if key not in expected],
    }
    if any(wrong.values()):
        text = '; '.join(
            f'{len(keys)} {what} ({", ".join(map(str, keys[:3]))}{", ..." * (len(keys) > 3)})'
            for what, keys in wrong.items()
            if keys
        )
        raise UsageError(
            f'checkpoint must be of the model of the config, but of the keys in {checkpoint} {text}'
        )
    model.load_state_dict(weights)
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise UsageError(
            f'--device must be a device of this machine, but got {device}: {describe(error)}'
        ) from error


def main():
    args = parse_args()
    cfg = read_config(args)
    model = build_model(cfg, args.checkpoint, args.device or get_device())
    parts = find_parts(cfg, args.split)
    sources = find_sources(args.images, args.indices, parts, is_data_there(cfg, args))
    names = [osp.splitext(osp.basename(source.path))[0] for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(
            f'images must have different names, but several are named {", ".join(repeated)}'
        )
    try:
        os.makedirs(args.out_dir, exist_ok=True)
        for source, name in zip(sources, names):
            draw(args, model, source, name, parts[0]['pipeline'])
    except OSError as error:
        raise UsageError(
            f'--out-dir must be a folder that can be written, but got {args.out_dir}: '
            f'{describe(error)}'
        ) from error


def is_data_there(cfg, args):
    """Whether the data is on the disk; only images that are files themselves can do without it."""
    try:
        check_data(cfg, [f'{args.split}_dataloader'])
        return True
    except UsageError as error:
        names = [image for image in args.images if not osp.exists(image)] or args.indices
        if names:
            raise UsageError(
                f'cannot look {", ".join(map(str, names))} up in --split {args.split}: {error}'
            ) from error
        print(
            f'the data of --split {args.split} is not there: every image is compared with the '
            "model's own prediction"
        )
        return False


def draw(args, model, source, name, pipeline):
    """The pictures of one image."""
    batch, target = load(source, pipeline, model, args.score_thr)
    try:
        captured = capture(model, batch, args.num_strengths, args.magnify, args.sites)
    except ValueError as error:
        raise UsageError(f'cannot take features of {source.path}: {describe(error)}') from error
    image = to_rgb(batch['inputs'][0])
    for features in captured:
        try:
            view = choose_view(features, args.channels, args.topk)
        except ValueError as error:
            print(f'{source.path}: site {features.name} is left out: {error}')
            continue
        path = osp.join(args.out_dir, f'{name}_{features.name}.png')
        save_png(draw_site(features, image, view, args.magnify, target, args.alpha), path)
        print(
            f'{path}: site {features.name}, loss against {target}'
            + ('' if features.finite else ', direction not finite')
        )


if __name__ == '__main__':
    with torch.no_grad():
        run(main)
