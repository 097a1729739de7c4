"""Evaluations: what the options of tools/test.py do to a config, and running one."""

import os.path as osp
import warnings
from copy import deepcopy
from typing import Any, Dict, List, Optional, Sequence, Union

from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.registry import METRICS

from ..conversion.host import in_scope
from ..models.component import parameter
from ..utils.configs import image_datasets, library_of, type_name
from ..utils.errors import UsageError
from ..utils.files import check_output
from ..utils.models import load_exactly, read_checkpoint, unwrapped
from .command_line import load_config
from .config_check import class_of
from .runner import build_runner
from .test_loops import enable_corruptions, enable_robust

# For detectors whose config says nothing of test-time augmentation: the image and its mirror image,
# merged by NMS.
DET_TTA_MODEL = dict(
    type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
)
# For classifiers: the mean score of the same two.
CLS_TTA_MODEL = dict(type='mmpretrain.AverageClsScoreTTA')
DET_TTA_META_KEYS = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'flip',
    'flip_direction',
)


def evaluation_config(
    config: str,
    checkpoint: str,
    out: Optional[str] = None,
    show: bool = False,
    show_dir: Optional[str] = None,
    wait_time: float = 2,
    tta: bool = False,
    robust: Union[str, bool, None] = None,
    corruptions: Optional[Sequence[str]] = None,
    severities: Optional[Sequence[int]] = None,
    **common: Any,
) -> Config:
    """The config of an evaluation.

    Args:
        config: A config file.
        checkpoint: A file, or the address of one.
        out: Where to save predictions: a .pkl file (detector) or a folder of masks (segmentor).
            Defaults to None, nowhere.
        show, show_dir, wait_time: See :func:`enable_drawing`.
        tta: Whether to augment the images. Defaults to False.
        robust: The attack of an evaluation on perturbed images beside the clean ones, True for that
            of the config or PGD. Defaults to None, the clean ones alone.
        corruptions: Names of common corruptions to evaluate beside the clean images, none of them
            for those of the config or the fifteen of the benchmark. Defaults to None, the clean
            ones alone.
        severities: Of corruptions, which must be asked for. Defaults to the config's, or 1 to 5.
        common: See :func:`~afan_mm.cli.command_line.load_config`.

    Raises:
        UsageError: If an option does not fit the config, or the checkpoint cannot be read.
    """
    cfg = load_config(config, **common)
    cfg.load_from = checkpoint
    if show_dir:
        # a detector's is inside the work folder
        inside = cfg.work_dir if cfg.get('default_scope') == 'mmdet' else ''
        check_output('--show-dir', osp.join(inside, show_dir, ''))
    read_checkpoint(checkpoint)
    if corruptions is not None:
        for option, given in (('--robust', robust), ('--show', show), ('--show-dir', show_dir)):
            if given:
                raise UsageError(f'{option} does not go with --corruptions')
    elif severities is not None:
        raise UsageError('--severities needs --corruptions')
    if robust:
        for option, given in (('--tta', tta), ('--show', show)):
            if given:
                raise UsageError(f'{option} does not go with --robust')
        enable_robust(cfg, None if robust is True else robust, show_dir)
    elif corruptions is not None:
        enable_corruptions(cfg, corruptions, severities)
    elif show or show_dir:
        enable_drawing(cfg, show, show_dir, wait_time)
    if out is not None:
        save_predictions(cfg, out)
    if tta:  # last, as the model that it puts in place need not be of a library
        enable_tta(cfg)
    return cfg


def evaluate(cfg: Config, exact: bool = True) -> Dict[str, float]:
    """Evaluate the checkpoint that a config loads from; its metrics.

    Args:
        cfg: From :func:`evaluation_config`.
        exact: Whether to refuse a checkpoint that misses weights of the model or has others: with
            mmengine's own loading a checkpoint of another model gives figures too, of an untrained
            network. Defaults to True.

    Raises:
        UsageError: If the checkpoint is refused, or the robust evaluation is not possible.
    """
    runner = build_runner(cfg)
    if exact and cfg.get('load_from'):
        model = unwrapped(runner.model)
        try:
            load_exactly(model.module if isinstance(model, BaseTTAModel) else model, cfg.load_from)
        except UsageError as error:
            raise UsageError(f'{error}; --any-checkpoint evaluates it all the same') from error
    return runner.test()


def enable_drawing(
    cfg: Config, show: bool = False, show_dir: Optional[str] = None, wait_time: float = 2
) -> None:
    """Switch the visualization hook on. Each library has its own key for the folder.

    Args:
        show: Whether to show pictures in a window. Defaults to False.
        show_dir: Folder for them. Defaults to none.
        wait_time: Seconds that the window keeps a picture. Defaults to 2.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UsageError(
            '--show and --show-dir need a config with default_hooks.visualization, but got none'
        )
    if library_of(cfg, '--show-dir') == 'mmpretrain':
        hook.update(enable=True, show=show, out_dir=show_dir)
        return
    hook.draw = True
    if show:
        hook.update(show=True, wait_time=wait_time)
    if show_dir:
        if library_of(cfg, '--show-dir') == 'mmdet':
            hook.test_out_dir = show_dir
        elif cfg.get('visualizer') is None:
            raise UsageError('--show-dir needs a config with visualizer, but got none')
        else:
            cfg.visualizer.save_dir = show_dir


def enable_tta(cfg: Config) -> None:
    """Test through the library's augmenting model and pipeline. Segmentors have no default for
    them, detectors and classifiers do.
    """
    datasets = image_datasets(cfg.test_dataloader.dataset)
    library = library_of(cfg, '--tta')
    if library != 'mmseg':
        pipeline, *others = [dataset.pipeline for dataset in datasets]
        if 'tta_pipeline' not in cfg and any(other != pipeline for other in others):
            raise UsageError('--tta needs tta_pipeline for data sets of several pipelines')
        defaults = dict(
            tta_model=DET_TTA_MODEL if library == 'mmdet' else CLS_TTA_MODEL,
            tta_pipeline=make_tta_pipeline(library, pipeline),
        )
        for key, default in defaults.items():
            if key not in cfg:
                warnings.warn(
                    f'Cannot find ``{key}`` in config, we will set it as default.', stacklevel=2
                )
                cfg[key] = default
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise UsageError(f'--tta needs a config with {key}, but got none')
    # mmseg merges the views' probabilities, but the logits that it hands on are the last view's
    if library == 'mmseg' and 'CalibrationMetric' in map(type_name, _metrics(cfg)):
        raise UsageError(
            '--tta does not go with CalibrationMetric, which would judge the last view alone: '
            'leave it out of test_evaluator, or test without --tta'
        )
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def make_tta_pipeline(library: str, pipeline: List[dict]) -> List[dict]:
    """The test pipeline with its packing step in two versions, mirrored and not."""
    flip, pack = 'RandomFlip', deepcopy(pipeline[-1])
    if library == 'mmdet':
        flip = 'mmdet.RandomFlip'
        pack = dict(type='mmdet.PackDetInputs', meta_keys=DET_TTA_META_KEYS)
    flips = [dict(type=flip, prob=1.0), dict(type=flip, prob=0.0)]
    return [*deepcopy(pipeline[:-1]), dict(type='TestTimeAug', transforms=[flips, [pack]])]


def save_predictions(cfg: Config, out: str) -> None:
    """Let the evaluator write predictions, beside its metrics."""
    metrics, library = _metrics(cfg), library_of(cfg, '--out')
    if library in ('mmdet', 'mmpretrain'):
        kind, dump = dict(
            mmdet=('detector', 'mmdet.DumpDetResults'), mmpretrain=('classifier', 'DumpResults')
        )[library]
        if not out.endswith(('.pkl', '.pickle')):
            raise UsageError(f'--out must end with .pkl or .pickle for a {kind}, but got {out}')
        cfg.test_evaluator = [*metrics, dict(type=dump, out_file_path=out)]
        return
    for metric in metrics:
        with in_scope(cfg.get('default_scope')):
            cls = class_of(METRICS, metric.get('type'))
        for key, value in dict(output_dir=out, keep_results=True).items():
            if isinstance(cls, type) and parameter(cls, key) is not None:
                metric[key] = value
    if not any('output_dir' in metric for metric in metrics):
        raise UsageError(
            '--out needs a metric with output_dir, such as IoUMetric, but got '
            f'{", ".join(map(type_name, metrics))}'
        )


def _metrics(cfg: Config) -> List[dict]:
    """The metrics of a test."""
    several = isinstance(cfg.test_evaluator, (list, tuple))
    return list(cfg.test_evaluator) if several else [cfg.test_evaluator]
