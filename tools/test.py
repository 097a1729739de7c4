"""Evaluate a detector or a segmentor: python tools/test.py CONFIG CHECKPOINT [options]

The options are those of the hosts' own tools and mean what they mean there: ``--out`` is a pickle
file of predictions for a detector, a folder of predicted masks for a segmentor. Metrics go to a
json file in the work folder. Relative paths in a config, such as its data, count from the current
folder.
"""

import argparse
import inspect
from copy import deepcopy

from command_line import (
    UsageError,
    add_common_options,
    build_runner,
    check_checkpoint,
    find_host,
    load_config,
    run,
)
from data_check import check_data

from afan_mm.robustness import AttackError, AttackSettings, RobustTestLoop
from afan_mm.robustness.attack_settings import ATTACKS

# For detectors whose config says nothing of test-time augmentation: the image and its mirror image,
# merged by NMS.
DET_TTA_MODEL = dict(
    type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
)
DET_TTA_META_KEYS = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', help='save predictions: a .pkl file (detector) or a folder of masks (segmentor)'
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
        const='pgd',
        choices=ATTACKS,
        metavar='ATTACK',
        help="evaluate clean images and images perturbed against the model, side by side: 'pgd' "
        '(default), for a '
        "segmentor also 'segpgd' or 'cospgd', with the paper's strengths; change them with "
        '--cfg-options, e.g. '
        'test_cfg.num_steps=20 test_cfg.epsilon=4/255. With --show-dir, pictures of both. Start '
        'an interrupted '
        'run again, and it goes on',
    )
    return parser.parse_args(argv)


def enable_drawing(cfg, args):
    """Switch the visualization hook on. Each host has its own place for the folder."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UsageError(
            '--show and --show-dir need a config with default_hooks.visualization, but got none'
        )
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir:
        if find_host(cfg, '--show-dir') == 'mmdet':
            hook.test_out_dir = args.show_dir
        elif cfg.get('visualizer') is None:
            raise UsageError('--show-dir needs a config with visualizer, but got none')
        else:
            cfg.visualizer.save_dir = args.show_dir


def enable_tta(cfg):
    """Test through the host's augmenting model and pipeline. Segmentors have no default for them,
    detectors do.
    """
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:  # a wrapper, such as RepeatDataset
        dataset = dataset.dataset
    if find_host(cfg, '--tta') == 'mmdet':
        cfg.setdefault('tta_model', DET_TTA_MODEL)
        cfg.setdefault('tta_pipeline', make_det_tta_pipeline(dataset.pipeline))
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise UsageError(f'--tta needs a config with {key}, but got none')
    dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def make_det_tta_pipeline(pipeline):
    """The test pipeline with its packing step in two versions, mirrored and not."""
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    pack = dict(type='PackDetInputs', meta_keys=DET_TTA_META_KEYS)
    return [*deepcopy(pipeline[:-1]), dict(type='TestTimeAug', transforms=[flips, [pack]])]


def save_predictions(cfg, out):
    """Let the evaluator write predictions, beside its metrics."""
    metrics = (
        cfg.test_evaluator
        if isinstance(cfg.test_evaluator, (list, tuple))
        else [cfg.test_evaluator]
    )
    if find_host(cfg, '--out') == 'mmdet':
        if not out.endswith(('.pkl', '.pickle')):
            raise UsageError(f'--out must end with .pkl or .pickle for a detector, but got {out}')
        cfg.test_evaluator = [*metrics, dict(type='DumpDetResults', out_file_path=out)]
    else:
        for metric in metrics:
            metric.update(output_dir=out, keep_results=True)


def enable_robust(cfg, args):
    """Test with the loop of the robust evaluation, which draws its own pictures."""
    for option, given in (('--tta', args.tta), ('--show', args.show)):
        if given:
            raise UsageError(f'{option} does not go with --robust')
    cfg.test_cfg = dict(cfg.get('test_cfg') or {}, type='RobustTestLoop', attack=args.robust)
    if args.show_dir:
        cfg.test_cfg.show_dir = args.show_dir
    other_keys = {'type', '_scope_', *inspect.signature(RobustTestLoop).parameters} - {'attack'}
    settings = {key: value for key, value in cfg.test_cfg.items() if key not in other_keys}
    try:
        AttackSettings.for_host(find_host(cfg, '--robust'), **settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f'test_cfg: {error}') from error


def configure(args):
    """The config with all options applied."""
    cfg = load_config(args)
    check_checkpoint(args.checkpoint)
    cfg.load_from = args.checkpoint
    if args.robust:
        enable_robust(cfg, args)
    elif args.show or args.show_dir:
        enable_drawing(cfg, args)
    if args.tta:
        enable_tta(cfg)
    if args.out is not None:
        save_predictions(cfg, args.out)
    return cfg


def main():
    cfg = configure(parse_args())
    check_data(cfg, ['test_dataloader'])
    try:
        build_runner(cfg).test()
    except AttackError as error:
        raise UsageError(str(error)) from error


if __name__ == '__main__':
    run(main)
