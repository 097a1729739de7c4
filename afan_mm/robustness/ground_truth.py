"""Ground truth where the loss needs it: in the frame of the input."""

import copy
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import nn

from .settings import AttackError

MAPS = ('gt_sem_seg', 'gt_edge_map', 'gt_depth_map')
LABELS = ('gt_label', 'gt_score')
IGNORED = 255
OF_MASKS = ('MaskFormerHead', 'Mask2FormerHead', 'SideAdapterCLIPHead')
# Frames of annotations: that of the input; that of the original image, which ``scale_factor`` takes
# into the input's, where padding follows at the right and the bottom; or that of the original image
# where the input shows all of it and nothing else.
FRAMES = ('input', 'original', 'stretched')
# Transforms that are understood: those whose ``scale_factor`` tells what they did, those that fill
# the input, and those that leave every pixel in its place.
SCALING = ('Resize', 'FixScaleResize', 'ResizeShortestEdge')
STRETCHING = ('ResizeToMultiple',)
STILL = (
    'Normalize',
    'PhotoMetricDistortion',
    'AdjustGamma',
    'CLAHE',
    'Rerange',
    'RGB2Gray',
)


def ground_truth_frame(dataset: Any) -> str:
    """The frame that the pipeline of a data set leaves annotations in, one of ``FRAMES``.

    Test pipelines load annotations after they resized the image, since predictions are scaled back
    to the original image ('original', or 'stretched' where the image was also resized to fill its
    input); training pipelines load first, and resize both ('input'). The order of the transforms is
    what decides: shapes cannot tell, a box has none, and an image that was resized and padded can
    be as large as the original one.

    Raises:
        AttackError: If there is no such pipeline, if it loads no annotations, if something before
            them moves the image in a way that is not known, or if the parts of a data set disagree.
    """
    found = {_frame_after(part.pipeline.transforms) for part in _parts(dataset)}
    if len(found) > 1:
        raise AttackError(
            'the parts of the test set must all load annotations after resizing, or all before'
        )
    return found.pop()


def _parts(dataset: Any) -> List[Any]:
    """The data sets within wrappers that have a pipeline."""
    if hasattr(dataset, 'datasets'):
        return [part for each in dataset.datasets for part in _parts(each)]
    if not hasattr(dataset, 'pipeline') and hasattr(dataset, 'dataset'):
        return _parts(dataset.dataset)
    if not hasattr(getattr(dataset, 'pipeline', None), 'transforms'):
        raise AttackError(
            f'the test set must have a pipeline of transforms, but {type(dataset).__name__} has '
            'none: say ground_truth="input" or "original", the frame of its annotations'
        )
    return [dataset]


def _frame_after(transforms: List[Any]) -> str:
    frame, padded = 'input', False
    for transform in transforms:
        name = type(transform).__name__
        if name.startswith('Load') and name.endswith('Annotations'):
            if padded and frame == 'stretched':
                raise AttackError(
                    'the test pipeline must not pad an image that it has resized to a multiple '
                    'before it loads annotations, which then do not fit'
                )
            return frame
        if name.startswith('Pack'):
            break
        if name in SCALING:
            frame = 'original'
        elif name in STRETCHING and not padded:
            frame = 'stretched'
        elif name == 'Pad':
            padded = True
        elif name not in STILL and not name.startswith('Load'):
            raise AttackError(
                f'the test pipeline must not use {name} before it loads annotations, which then '
                'may not fit: load them first, or say with ground_truth which of '
                f'{", ".join(FRAMES)} is their frame'
            )
    raise AttackError(
        'the attack needs ground truth, but the test pipeline has no LoadAnnotations: add it '
        'before the packing step (for a detector with masks: with_mask=True)'
    )


def has_ground_truth(dataset: Any) -> bool:
    """Whether any image of a data set has an object or a map; True where the data set does not
    say.
    """
    for part in _parts(dataset):
        for index in range(len(part)):
            info = part.get_data_info(index)
            if info.get('seg_map_path') or 'instances' not in info or len(info['instances']) > 0:
                return True
    return False


def check_sample(sample: Any) -> None:
    """Complain of a data sample without ground truth."""
    instances = sample.get('gt_instances', None)
    # mmpretrain's has a data sample of its own for each task, where it has several
    tasks = [part for part in sample.values() if isinstance(part, BaseDataElement)]
    labelled = any(name in each for each in (sample, *tasks) for name in LABELS)
    if (
        not any(name in sample for name in MAPS)
        and not labelled
        and (instances is None or 'bboxes' not in instances and 'masks' not in instances)
    ):
        raise AttackError(
            f'the attack needs ground truth, but a {type(sample).__name__} of the test set has '
            'none: its pipeline '
            'must load annotations'
        )


def to_input_frame(sample: Any, shape: Tuple[int, int], frame: str, ignored: int = IGNORED) -> Any:
    """A copy of a data sample whose ground truth fits an input.

    Args:
        sample: Of mmdet, mmseg or mmpretrain, whose labels have no frame; never modified.
        shape: Height and width of the input as the pipeline packed it, its padding included.
        frame: That of the ground truth, see :func:`ground_truth_frame`. From the original image it
            is scaled (boxes), or resized without mixing labels (maps and masks) and padded at the
            right and the bottom, as the libraries' ``Pad`` does, with 0 (masks).
        ignored: What maps are padded with. Defaults to 255.

    Raises:
        AttackError: If a map is larger than the input, or the sample does not say how its image was
            resized.
    """
    sample = copy.deepcopy(sample)
    width, height = _scale(sample.metainfo, shape, frame)
    for name in ('gt_instances', 'ignored_instances'):
        if frame != 'input' and name in sample:
            _scale_instances(sample.get(name), (width, height), shape)
    for name in MAPS:
        if name in sample:
            _fit_map(sample, name, (height, width), shape, ignored)
    return sample


def _scale(meta: Dict[str, Any], shape: Tuple[int, int], frame: str) -> Tuple[float, float]:
    """What takes ground truth into the frame of the input: a factor for x, and one for y."""
    if frame == 'input':
        return 1.0, 1.0
    is_known = 'scale_factor' in meta or meta.get('img_shape') == meta.get('ori_shape')
    if 'ori_shape' not in meta or frame == 'original' and not is_known:
        raise AttackError(
            'the attack needs to know how each image of the test set was resized: the packing step '
            f'of its pipeline must keep ori_shape and scale_factor, but meta_keys gave {[*meta]}'
        )
    if frame == 'stretched':
        return shape[1] / meta['ori_shape'][1], shape[0] / meta['ori_shape'][0]
    # a number, (w, h), or (w, h, w, h)
    return tuple(np.broadcast_to(np.ravel(meta.get('scale_factor', 1.0))[:2], 2).tolist())


def _scale_instances(instances: Any, scale: Tuple[float, float], shape: Tuple[int, int]) -> None:
    if 'bboxes' in instances:
        boxes = instances.bboxes
        if torch.is_tensor(boxes):
            instances.bboxes = boxes * boxes.new_tensor(scale * 2)
        else:
            boxes.rescale_(scale)
    if 'masks' in instances:
        masks = instances.masks
        size = (round(masks.height * scale[1]), round(masks.width * scale[0]))
        instances.masks = masks.resize(size).pad(shape)


def _fit_map(
    sample: Any, name: str, scale: Tuple[float, float], shape: Tuple[int, int], ignored: int
) -> None:
    pixels = sample.get(name)
    size = tuple(round(length * factor) for length, factor in zip(pixels.shape, scale))
    if size[0] > shape[0] or size[1] > shape[1]:
        raise AttackError(
            f'{name} must fit its image of {shape}, but it is {size}: the test pipeline must load '
            'annotations '
            'before or after all transforms that change the size of the image, not in between'
        )
    fitted = {}
    for key, values in pixels.items():
        resized = F.interpolate(values[None].double(), size, mode='nearest')[0]
        fitted[key] = pad_map(resized, shape, ignored).to(values.dtype)
    setattr(sample, name, type(pixels)(metainfo=pixels.metainfo, **fitted))


def pad_map(values: torch.Tensor, shape: Tuple[int, int], ignored: int = IGNORED) -> torch.Tensor:
    """(C, h, w) at the size ``shape``, with what no loss counts at the right and the bottom."""
    return F.pad(
        values, (0, shape[1] - values.shape[-1], 0, shape[0] - values.shape[-2]), value=ignored
    )


def ignored_label(model: nn.Module) -> int:
    """The label that a model's losses do not count; 255, the libraries' default, where it has no
    decode head.
    """
    return getattr(_last_decode_head(model), 'ignore_index', IGNORED)


def classifies_masks(model: nn.Module) -> bool:
    """Whether a segmentor's scores are sums over masks and no logits, as those of mmseg's heads of
    this kind.
    """
    return any(kind.__name__ in OF_MASKS for kind in type(_last_decode_head(model)).__mro__)


def _last_decode_head(model: nn.Module) -> Any:
    head = getattr(model, 'decode_head', None)
    return head[-1] if isinstance(head, nn.ModuleList) else head
