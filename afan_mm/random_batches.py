"""Random batches in the form that the libraries' data loaders give."""

import copy
from typing import Any, Optional, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

from .utils.configs import dicts, type_name

IGNORED = 255  # where a decode head names no other label
NUM_BOXES = 5
CPU_SHAPES = dict(mmseg=(160, 160), mmdet=(256, 256))  # mmpretrain's images are small already
CPU_BATCH_SIZE = 2


def default_shape(cfg: Config, device: torch.device) -> Tuple[int, int]:
    """(H, W) of the training images: the config's own on a GPU and for a
    classifier, a small one on a CPU.
    """
    if device.type == 'cpu' and cfg.default_scope in CPU_SHAPES:
        return CPU_SHAPES[cfg.default_scope]
    size = training_shape(cfg)
    if size is None:
        raise ValueError(
            'neither its data_preprocessor nor its training pipeline names the size of an image; '
            'give --shape'
        )
    return size


def training_shape(cfg: Config) -> Optional[Tuple[int, int]]:
    """(H, W) of the images that a config trains on: what its data_preprocessor pads to, or what its
    training pipeline resizes or else crops to; None where neither says.
    """
    size = cfg.model.get('data_preprocessor', {}).get('size')
    loader = cfg.get('train_dataloader', {})
    return tuple(size) if size else _scale(loader) or _crop(loader)


def default_batch_size(cfg: Config, device: torch.device) -> int:
    """Images per device: the config's own on a GPU, 2 on a CPU."""
    return (
        CPU_BATCH_SIZE
        if device.type == 'cpu'
        else cfg.get('train_dataloader', {}).get('batch_size') or CPU_BATCH_SIZE
    )


def random_batch(cfg: Config, shape: Tuple[int, int], batch_size: int, seed: int = 0) -> dict:
    """Images of noise with random targets.

    Args:
        shape: (H, W) in pixels.

    Returns:
        ``inputs``, a list of (C, H, W) uint8 tensors, C that of the data preprocessor, and
        ``data_samples``: with random blocks of labels, the last of them ignored unless a loss has
        class weights, for mmseg; with five boxes and their labels for mmdet, and with masks where
        the model has a key such as 'mask_head' or 'loss_mask', or the training pipeline loads
        them; with a class for mmpretrain.
    """
    generator = torch.Generator().manual_seed(seed)
    channels = _num_channels(cfg)
    inputs = [
        torch.randint(0, 256, (channels, *shape), generator=generator, dtype=torch.uint8)
        for _ in range(batch_size)
    ]
    make = dict(
        mmseg=_segmentation_sample, mmdet=_detection_sample, mmpretrain=_classification_sample
    )[cfg.default_scope]
    samples = [make(cfg.model, shape, generator) for _ in range(batch_size)]
    if cfg.default_scope == 'mmdet' and _has_masks(cfg):
        for sample in samples:
            _add_masks(sample.gt_instances, shape)
    for sample in samples:
        sample.set_metainfo(
            dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape)
        )
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    return dict(inputs=inputs, data_samples=samples)


def _segmentation_sample(model: dict, shape: Tuple[int, int], generator: torch.Generator) -> Any:
    from mmseg.structures import SegDataSample  # only for segmentors

    blocks = torch.randint(0, _num_classes(model), (1, 1, 4, 4), generator=generator)
    # mmseg looks up the weight of ignored pixels, too, and fails
    if not any(node.get('class_weight') for node in dicts(model)):
        blocks[..., -1, -1] = _ignored_label(model)
    labels = torch.nn.functional.interpolate(blocks.float(), shape).long()[0]
    return SegDataSample(gt_sem_seg=PixelData(data=labels))


def _ignored_label(model: dict) -> int:
    """Of the pixels that no loss of a segmentor counts."""
    heads = [node.get('decode_head') for node in dicts(model)]
    heads = [head[-1] if isinstance(head, (list, tuple)) else head for head in heads if head]
    return next((head['ignore_index'] for head in heads if 'ignore_index' in head), IGNORED)


def _detection_sample(model: dict, shape: Tuple[int, int], generator: torch.Generator) -> Any:
    from mmdet.structures import DetDataSample  # only for detectors

    size = torch.tensor([shape[1], shape[0]])
    corner = torch.rand(NUM_BOXES, 2, generator=generator) * size * 0.6
    boxes = torch.cat(
        [corner, corner + (0.1 + 0.3 * torch.rand(NUM_BOXES, 2, generator=generator)) * size], 1
    )
    labels = torch.randint(0, _num_classes(model), (NUM_BOXES,), generator=generator)
    return DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=labels))


def _has_masks(cfg: Config) -> bool:
    """Whether a detector trains on masks; the assigner of RTMDet fails on some that it need not
    have.
    """
    loaded = any(step.get('with_mask') for step in dicts(cfg.get('train_dataloader')))
    return loaded or any(
        'mask' in str(key) and node[key] for node in dicts(cfg.model) for key in node
    )


def _add_masks(instances: InstanceData, shape: Tuple[int, int]) -> None:
    """The boxes as masks."""
    from mmdet.structures.mask import BitmapMasks  # only for detectors

    masks = np.zeros((len(instances), *shape), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, instances.bboxes.long().tolist()):
        mask[top:bottom, left:right] = 1
    instances.masks = BitmapMasks(masks, *shape)


def _classification_sample(model: dict, shape: Tuple[int, int], generator: torch.Generator) -> Any:
    from mmpretrain.structures import DataSample  # only for classifiers

    return DataSample().set_gt_label(
        torch.randint(0, _num_classes(model), (1,), generator=generator)
    )


def zoo_batch(cfg: Config, shape: Tuple[int, int], batch_size: int = 2, seed: int = 0) -> dict:
    """A batch with every kind of target that a family of a library reads.

    Args:
        shape: (H, W) in pixels.

    Returns:
        As :func:`random_batch`, with semantic maps, edges, proposals, ignored boxes and the fields
        that only one family asks for; clips of two frames for trackers that train on pairs, a
        labelled and an unlabelled branch for semi-supervised ones.
    """
    batch = random_batch(cfg, shape, batch_size, seed)
    complete = dict(mmseg=_complete_segmentation, mmdet=_complete_detection).get(cfg.default_scope)
    for sample in batch['data_samples'] if complete else ():
        complete(cfg.model, sample, shape)
    kind = type_name(cfg.model.get('data_preprocessor', {}))
    if kind.endswith('MultiBranchDataPreprocessor'):
        branches = ('sup', 'unsup_teacher', 'unsup_student')
        return {
            key: {name: copy.deepcopy(value) for name in branches} for key, value in batch.items()
        }
    if kind.endswith('TrackDataPreprocessor') and not cfg.model.data_preprocessor.get(
        'use_det_processor'
    ):
        return _clips(batch)
    if kind.endswith('ReIDDataPreprocessor'):
        return _identities(batch)
    return batch


def _complete_segmentation(model: dict, sample: Any, shape: Tuple[int, int]) -> None:
    sample.gt_edge_map = PixelData(data=(sample.gt_sem_seg.data > 0).long())
    sample.gt_depth_map = PixelData(data=1 + sample.gt_sem_seg.data.float())


def _complete_detection(model: dict, sample: Any, shape: Tuple[int, int]) -> None:
    boxes, labels = sample.gt_instances.bboxes, sample.gt_instances.labels
    # Stuff comes after the things in the numbering of a panoptic head.
    semantic = torch.full((1, *shape), _num_classes(model) - 1)
    for (left, top, right, bottom), label in zip(boxes.long().tolist(), labels.tolist()):
        semantic[0, top:bottom, left:right] = label
    sample.gt_sem_seg = PixelData(sem_seg=semantic)
    sample.ignored_instances = sample.gt_instances[:0]
    sample.gt_instances.instances_ids = torch.arange(len(labels))
    sample.proposals = InstanceData(bboxes=boxes + 2, scores=torch.ones(len(boxes)))
    sample.set_metainfo(
        dict(
            flip=False,
            flip_direction=None,
            border=(0, shape[0], 0, shape[1]),
            img_id=0,
            img_path='',
            homography_matrix=np.eye(3, dtype=np.float32),
        )
    )


def _clips(batch: dict) -> dict:
    """Each image as a clip of a key frame and a reference frame."""
    from mmdet.structures import TrackDataSample  # only for trackers

    samples = []
    for sample in batch['data_samples']:
        frames = [copy.deepcopy(sample), copy.deepcopy(sample)]
        for index, frame in enumerate(frames):
            frame.set_metainfo(dict(frame_id=index))
        clip = TrackDataSample(video_data_samples=frames)
        clip.set_metainfo(dict(key_frames_inds=[0], ref_frames_inds=[1]))
        samples.append(clip)
    return dict(
        inputs=[torch.stack([image, image.flip(-1)]) for image in batch['inputs']],
        data_samples=samples,
    )


def _identities(batch: dict) -> dict:
    """Each image, and its mirror image, as the pictures of one person."""
    from mmdet.structures import ReIDDataSample  # only for re-identification

    labels = torch.arange(len(batch['inputs']))
    samples = [ReIDDataSample().set_gt_label(label.repeat(2)) for label in labels]
    return dict(
        inputs=[torch.stack([image, image.flip(-1)]) for image in batch['inputs']],
        data_samples=samples,
    )


def _num_classes(model: dict) -> int:
    """The smallest number of classes of any head: labels that every head knows."""
    found = [
        node[key]
        for node in dicts(model)
        for key in ('num_classes', 'num_things_classes')
        if isinstance(node.get(key), int)
    ]
    if not found and 'rpn_head' in model:
        return 1  # objects
    if not found:
        raise ValueError('no head of its model has num_classes')
    return min(found)


def _num_channels(cfg: Config) -> int:
    """Of an image: as many as the data preprocessor has means, such as one for grey images; 3
    where it has none.
    """
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean = preprocessor.get('mean')
    return len(mean) if isinstance(mean, (list, tuple)) else 3


def _scale(dataloader: dict) -> Optional[Tuple[int, int]]:
    """(H, W) of the first (W, H), or side of a square, that a training pipeline resizes to."""
    for step in dicts(dataloader):
        scales = step.get('scales')
        drawn = scales[0] if isinstance(scales, (list, tuple)) and scales else None
        size = _size(step.get('scale')) or _size(drawn)
        if size is not None:
            return size[::-1]
    return None


def _crop(dataloader: dict) -> Optional[Tuple[int, int]]:
    """(H, W) of the first crop of a training pipeline."""
    found = (_size(step.get('crop_size')) for step in dicts(dataloader))
    return next((size for size in found if size is not None), None)


def _size(value: Any) -> Optional[Tuple[int, int]]:
    """Two sides in pixels: a pair of them, the first pair of those to draw from, or the side of a
    square. None for what else transforms call a scale, such as a range of ratios.
    """
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple)):
        value = value[0]
    sides = (value, value) if type(value) is int else value
    if not isinstance(sides, (list, tuple)) or len(sides) != 2:
        return None
    return tuple(sides) if all(type(side) is int and side > 1 for side in sides) else None
