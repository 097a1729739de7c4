"""Ground truth in the frame of the input, by hand."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData

from afan_mm.robustness import AttackError
from afan_mm.robustness.ground_truth import (
    check_sample,
    ground_truth_frame,
    has_ground_truth,
    to_input_frame,
)

LOAD, ANNOTATIONS, RESIZE = (
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(8, 8)),
)


def detection(boxes=((1.0, 2.0, 3.0, 4.0),), masks=None, scale=(2.0, 3.0), **kinds):
    from mmdet.structures import DetDataSample

    instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long)
    )
    if masks is not None:
        instances.masks = masks
    sample = DetDataSample(gt_instances=instances, **kinds)
    sample.set_metainfo(dict(scale_factor=scale, ori_shape=(2, 3), img_shape=(6, 6)))
    return sample


def segmentation(labels, scale=None):
    from mmseg.structures import SegDataSample

    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([labels])))
    sample.set_metainfo(
        dict(
            ori_shape=(len(labels), len(labels[0])),
            **({} if scale is None else dict(scale_factor=scale)),
        )
    )
    return sample


def test_boxes_by_hand():
    """scale_factor is (width, height); the sample itself, which the metric will read, stays as it
    is.
    """
    ignored = InstanceData(bboxes=torch.tensor([[0.0, 1.0, 1.0, 2.0]]))
    sample = detection(ignored_instances=ignored)
    fitted = to_input_frame(sample, (6, 6), frame='original')
    assert fitted.gt_instances.bboxes.tolist() == [[2.0, 6.0, 6.0, 12.0]]
    assert fitted.ignored_instances.bboxes.tolist() == [[0.0, 3.0, 2.0, 6.0]]
    assert sample.gt_instances.bboxes.tolist() == [
        [1.0, 2.0, 3.0, 4.0]
    ] and ignored.bboxes.tolist() == [[0.0, 1.0, 1.0, 2.0]]
    assert to_input_frame(sample, (6, 6), frame='input').gt_instances.bboxes.tolist() == [
        [1.0, 2.0, 3.0, 4.0]
    ]


@pytest.mark.parametrize('scale', ['float', 'array', 'missing'])
def test_other_forms_of_a_scale_factor(scale):
    sample = detection(
        scale=dict(float=2.0, array=np.array([2.0, 2.0, 2.0, 2.0]), missing=1.0)[scale]
    )
    if scale == 'missing':  # it was not resized
        del sample.scale_factor
        sample.set_metainfo(dict(img_shape=sample.ori_shape))
    factor = 1 if scale == 'missing' else 2
    assert to_input_frame(sample, (9, 9), frame='original').gt_instances.bboxes.tolist() == [
        [factor * v for v in (1, 2, 3, 4)]
    ]


@pytest.mark.parametrize(
    'key, frame',
    [('scale_factor', 'original'), ('ori_shape', 'original'), ('ori_shape', 'stretched')],
)
def test_a_sample_that_does_not_say_how_it_was_resized_is_refused(key, frame):
    sample = detection()
    delattr(sample, key)
    with pytest.raises(AttackError, match='must keep ori_shape and scale_factor, but meta_keys'):
        to_input_frame(sample, (6, 6), frame)
    assert to_input_frame(sample, (6, 6), 'input')


def test_box_structures_and_no_boxes():
    from mmdet.structures.bbox import HorizontalBoxes

    sample = detection()
    sample.gt_instances.bboxes = HorizontalBoxes(sample.gt_instances.bboxes)
    assert to_input_frame(sample, (6, 6), frame='original').gt_instances.bboxes.tensor.tolist() == [
        [2.0, 6.0, 6.0, 12.0]
    ]
    assert sample.gt_instances.bboxes.tensor.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert to_input_frame(
        detection(boxes=()), (6, 6), frame='original'
    ).gt_instances.bboxes.shape == (
        0,
        4,
    )


def test_masks_by_hand():
    """Two rows of three pixels become 6 x 6, and the pipeline's padding to 7 x 8 is no object."""
    from mmdet.structures.mask import BitmapMasks

    sample = detection(masks=BitmapMasks(np.array([[[1, 0, 0], [0, 0, 1]]], dtype=np.uint8), 2, 3))
    masks = to_input_frame(sample, (7, 8), frame='original').gt_instances.masks
    expected = np.zeros((7, 8), dtype=np.uint8)
    expected[:3, :2] = expected[3:6, 4:6] = 1
    assert (masks.height, masks.width) == (7, 8) and (masks.masks[0] == expected).all()


def test_polygons_by_hand():
    from mmdet.structures.mask import PolygonMasks

    sample = detection(masks=PolygonMasks([[np.array([0.0, 0.0, 1.0, 0.0, 1.0, 2.0])]], 2, 3))
    masks = to_input_frame(sample, (7, 8), frame='original').gt_instances.masks
    assert masks.masks[0][0].tolist() == [0, 0, 2, 0, 2, 6] and (masks.height, masks.width) == (
        7,
        8,
    )


def test_maps_by_hand():
    """mmseg's, at twice the width and half the height, padded with what no loss counts."""
    fitted = to_input_frame(
        segmentation([[1, 2], [1, 2], [3, 4], [3, 4]], (2.0, 0.5)), (3, 5), frame='original'
    ).gt_sem_seg.data
    assert (
        fitted.tolist() == [[[1, 1, 2, 2, 255], [3, 3, 4, 4, 255], [255] * 5]]
        and fitted.dtype == torch.int64
    )


def test_a_map_of_mmdet():
    sample = detection(gt_sem_seg=PixelData(sem_seg=torch.tensor([[[7, 8, 9]]], dtype=torch.uint8)))
    fitted = to_input_frame(sample, (3, 7), frame='original').gt_sem_seg.sem_seg
    assert fitted.tolist() == [[[7, 7, 8, 8, 9, 9, 255]] * 3] and fitted.dtype == torch.uint8


def test_a_map_in_the_inputs_frame_is_padded_only():
    assert to_input_frame(
        segmentation([[1, 2]], (2.0, 2.0)), (2, 2), frame='input'
    ).gt_sem_seg.data.tolist() == [[[1, 2], [255, 255]]]
    with pytest.raises(
        AttackError, match=r'gt_sem_seg must fit its image of \(1, 1\), but it is \(1, 2\)'
    ):
        to_input_frame(segmentation([[1, 2]]), (1, 1), frame='input')


class Data:
    """What the frame and the presence of ground truth are read from."""

    def __init__(self, *steps, scope='mmdet', infos=()):
        from mmengine.dataset import Compose

        init_default_scope(scope)
        self.pipeline, self.infos = Compose([dict(step) for step in steps]), infos

    def __len__(self):
        return len(self.infos)

    def get_data_info(self, index):
        return self.infos[index]


class Wrapper:
    def __init__(self, *datasets):
        self.datasets = datasets


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_the_order_of_the_pipeline_tells_the_frame(scope):
    assert ground_truth_frame(Data(LOAD, RESIZE, ANNOTATIONS, scope=scope)) == 'original'
    assert ground_truth_frame(Data(LOAD, ANNOTATIONS, RESIZE, scope=scope)) == 'input'
    assert ground_truth_frame(Wrapper(Data(LOAD, RESIZE, ANNOTATIONS, scope=scope))) == 'original'


def test_pipelines_that_do_not_tell():
    after, before = Data(LOAD, RESIZE, ANNOTATIONS), Data(LOAD, ANNOTATIONS, RESIZE)
    with pytest.raises(
        AttackError, match='must all load annotations after resizing, or all before'
    ):
        ground_truth_frame(Wrapper(after, before))
    with pytest.raises(AttackError, match='must not use RandomFlip before it loads annotations'):
        ground_truth_frame(Data(LOAD, dict(type='RandomFlip', prob=0.5), ANNOTATIONS))
    with pytest.raises(AttackError, match='no LoadAnnotations: add it before the packing step'):
        ground_truth_frame(Data(LOAD, RESIZE))
    with pytest.raises(AttackError, match='ground_truth="input" or "original"'):
        ground_truth_frame([1, 2])


def test_a_set_without_any_object():
    nothing = dict(instances=[])
    assert not has_ground_truth(Data(infos=[nothing, nothing]))
    assert has_ground_truth(Data(infos=[nothing, dict(instances=[1])]))
    assert has_ground_truth(
        Wrapper(Data(infos=[nothing]), Data(infos=[dict(instances=[], seg_map_path='a.png')]))
    )
    assert has_ground_truth(Data(infos=[{}]))


def test_a_sample_without_ground_truth():
    from mmdet.structures import DetDataSample

    check_sample(detection(boxes=()))
    check_sample(segmentation([[1]]))
    with pytest.raises(AttackError, match='a DetDataSample of the test set has none'):
        check_sample(DetDataSample(gt_instances=InstanceData()))


@pytest.mark.parametrize('multiple', [False, True])
def test_map_and_image_agree(multiple, tmp_path):
    """A stock test pipeline, on stripes that both show; PoolFormer's resizes once more, to fill a
    multiple of 32.
    """
    stripes = (np.arange(533) // 20 % 2).astype(np.uint8)[None].repeat(400, 0)
    cv2.imwrite(str(tmp_path / 'a.png'), 255 * stripes[..., None].repeat(3, 2))
    cv2.imwrite(str(tmp_path / 'l.png'), stripes)
    data = Data(
        LOAD,
        dict(type='Resize', scale=(2048, 512), keep_ratio=True),
        *([dict(type='ResizeToMultiple', size_divisor=32)] if multiple else []),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
        scope='mmseg',
    )
    info = dict(img_path=str(tmp_path / 'a.png'), seg_map_path=str(tmp_path / 'l.png'))
    packed = data.pipeline(dict(info, reduce_zero_label=False, seg_fields=[]))
    shape = tuple(packed['inputs'].shape[-2:])
    fitted = to_input_frame(packed['data_samples'], shape, ground_truth_frame(data))
    agree = (fitted.gt_sem_seg.data[0] == (packed['inputs'][0] > 127)).float().mean()
    assert agree > 0.98 and shape[0] == 512


@pytest.mark.parametrize(
    'steps, name',
    [
        ([dict(type='Pad', size_divisor=32), dict(type='ResizeToMultiple')], 'ResizeToMultiple'),
        ([dict(type='RandomCutOut', prob=0.5, n_holes=1, cutout_shape=(2, 2))], 'RandomCutOut'),
    ],
)
def test_what_is_not_understood_is_refused(steps, name):
    data = Data(LOAD, *steps, dict(type='LoadAnnotations'), scope='mmseg')
    with pytest.raises(AttackError, match=f'must not use {name} before it loads annotations'):
        ground_truth_frame(data)
    stretched = Data(
        LOAD,
        dict(type='ResizeToMultiple'),
        dict(type='Pad', size_divisor=64),
        dict(type='LoadAnnotations'),
        scope='mmseg',
    )
    with pytest.raises(AttackError, match='must not pad an image that it has resized to a multi'):
        ground_truth_frame(stretched)
