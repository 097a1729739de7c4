"""Images with what their loss compares with: the annotation in the data of a config, or the model's
own prediction.
"""

import os
import os.path as osp
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.structures import InstanceData, PixelData
from torch import nn

from ..utils.configs import type_name
from ..utils.errors import UsageError, describe
from .data_check import find_datasets

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
SPLITS = ('train', 'val', 'test')


class Source(NamedTuple):
    """Where an image comes from.

    Attributes:
        path: Of the image.
        dataset, index: Its place in the data; None for an image that is not there.
    """

    path: str
    dataset: Any = None
    index: Optional[int] = None


def find_parts(cfg: Config, split: str) -> List[dict]:
    """The config of every data set of a split, with a pipeline without chance that loads
    annotations before it resizes.
    """
    parts = find_datasets(cfg.get(f'{split}_dataloader'))
    if not parts:
        raise UsageError(f'--split must name data of the config, but it has no {split}_dataloader')
    pipelines = [
        part.pipeline
        for name in (split, 'val', 'test')
        if name != 'train'
        for part in find_datasets(cfg.get(f'{name}_dataloader'))
        if 'pipeline' in part
    ]
    if not pipelines:
        raise UsageError(
            'the config has no val_dataloader or test_dataloader whose pipeline could prepare '
            'images'
        )
    # The loss needs the annotation in the frame of the input: test pipelines load it after the
    # image was resized.
    pipeline = sorted(pipelines[0], key=lambda step: not type_name(step).startswith('Load'))
    return [dict(part, pipeline=pipeline) for part in parts]


def find_sources(
    images: Sequence[str], indices: Sequence[int], parts: Sequence[dict], data_there: bool
) -> List[Source]:
    """The images that were asked for, all readable; those of the data know their place in it.

    Args:
        images: Files, folders, or names of images of the data.
        indices: Images of the data by number, from 0.
        parts: From :func:`find_parts`; the default scope must be that of their config.
        data_there: Whether the data is on the disk.

    Raises:
        UsageError: If there is no such image, none at all, or one that cannot be read, or the
            images of the data are no files.
    """
    paths = [path for image in images for path in _expand(image)]
    datasets = [DATASETS.build(part) for part in parts] if data_there else []
    places = [
        Source(_path_of(dataset, i), dataset, i)
        for dataset in datasets
        for i in range(len(dataset))
    ]
    known = {place.path: place for place in places}
    sources = []
    for index in indices:
        if not 0 <= index < len(places):
            raise UsageError(f'--indices must be from 0 to {len(places) - 1}, but got {index}')
        sources.append(places[index])
    for path in paths:
        named = [place for place in places if place.path.endswith(os.sep + osp.normpath(path))]
        if osp.isfile(path):
            sources.append(known.get(osp.realpath(path), Source(path)))
        elif len(named) == 1:
            sources.append(named[0])
        else:
            found = (
                f'{len(named)} images of the data have that name'
                if named
                else 'there is no such file, nor in the data'
            )
            raise UsageError(
                'an image must be a file, a folder or the name of one image of the data, but got '
                f'{path}: {found}'
            )
    for source in sources:
        if cv2.imread(source.path) is None:
            raise UsageError(f'cannot read image {source.path}')
    if not sources:
        raise UsageError('give images, a folder with images, or --indices')
    return sources


def load(
    source: Source, pipeline: Sequence[dict], model: nn.Module, score_thr: float
) -> Tuple[dict, str]:
    """A batch of one image with a target in the frame of the input, and what the target is.

    Args:
        source: The image.
        pipeline: Of an image without annotation, whose target is what the model predicts.
        model: In evaluation mode.
        score_thr: Of the predicted instances that count.
    """
    if source.dataset is not None:
        packed = source.dataset.prepare_data(source.index)
        sample = packed['data_samples']
        has_boxes = 'bboxes' in sample.get('gt_instances', {})
        if has_boxes or 'gt_sem_seg' in sample or 'gt_label' in sample:
            return dict(inputs=[packed['inputs']], data_samples=[sample]), 'ground truth'
    steps = [TRANSFORMS.build(step) for step in pipeline if 'Annotations' not in type_name(step)]
    try:
        packed = Compose(steps)(dict(img_path=source.path, img_id=0))
    except Exception as error:  # a pipeline may need what only its data set gives
        raise UsageError(
            f'the pipeline of the config cannot prepare {source.path}: {describe(error)}'
        ) from error
    sample = packed['data_samples']
    # A prediction is scaled back to the original frame: without a difference it stays in that of
    # the input.
    sample.set_metainfo(dict(ori_shape=sample.img_shape, scale_factor=(1.0, 1.0)))
    batch = dict(inputs=[packed['inputs']], data_samples=[sample])
    with torch.no_grad():
        predicted = model.test_step(batch)[0].cpu()
    return dict(batch, data_samples=[sample]), _set_target(sample, predicted, score_thr)


def _set_target(sample: Any, predicted: Any, score_thr: float) -> str:
    """Take a prediction as ground truth; returns what to say of it."""
    if 'pred_sem_seg' in predicted and 'pred_instances' not in predicted:
        sample.gt_sem_seg = PixelData(data=predicted.pred_sem_seg.data)
        return 'its own prediction (no annotation)'
    if 'pred_label' in predicted:
        sample.set_gt_label(predicted.pred_label)
        return 'its own prediction (no annotation)'
    if 'pred_instances' not in predicted:
        raise UsageError(
            'an image without annotation needs a model that predicts boxes, a map of labels or a '
            'label'
        )
    kept = predicted.pred_instances[predicted.pred_instances.scores > score_thr]
    sample.gt_instances = InstanceData(bboxes=kept.bboxes, labels=kept.labels)
    sample.ignored_instances = InstanceData(bboxes=kept.bboxes[:0], labels=kept.labels[:0])
    if 'masks' in kept:
        from mmdet.structures.mask import BitmapMasks  # only for detectors

        sample.gt_instances.masks = BitmapMasks(
            kept.masks.numpy().astype('uint8'), *sample.img_shape[:2]
        )
    return f'its own {len(kept)} predictions above {score_thr:g} (no annotation)'


def _path_of(dataset: Any, index: int) -> str:
    info = dataset.get_data_info(index)
    if 'img_path' not in info:  # those of mmpretrain's CIFAR10 are arrays
        raise UsageError(
            '--split must name data whose images are files, but those of '
            f'{type(dataset).__name__} are not'
        )
    return osp.realpath(info['img_path'])


def _expand(image: str) -> List[str]:
    if not osp.isdir(image):
        return [image]
    found = sorted(
        osp.join(image, name) for name in os.listdir(image) if name.lower().endswith(SUFFIXES)
    )
    if not found:
        raise UsageError(f'a folder must hold images ({", ".join(SUFFIXES)}), but {image} has none')
    return found
