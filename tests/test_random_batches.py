"""Random batches in the form of a data loader, beside what the benchmark's tests say of them."""

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from afan_mm.random_batches import training_shape, zoo_batch


@pytest.mark.parametrize(
    'path,shape',
    [
        ('mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py', (512, 512)),
        ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', (800, 1333)),
        ('mmpretrain::resnet/resnet50_8xb32_in1k.py', (224, 224)),
        ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', (32, 32)),
    ],
)
def test_size_of_the_images_that_a_config_trains_on(path, shape):
    assert training_shape(get_config(path)) == shape


@pytest.mark.parametrize(
    'pipeline,shape',
    [
        ([], None),
        ([dict(type='RandomFlip', prob=0.5)], None),
        ([dict(type='RandomCrop', crop_size=(48, 64))], (48, 64)),
        ([dict(type='RandomCrop', crop_size=32), dict(type='Resize', scale=64)], (64, 64)),
        ([dict(type='RandomChoiceResize', scales=[(640, 480), (320, 240)])], (480, 640)),
        ([dict(type='RandomResize', scale=[(2048, 800), (2048, 1024)])], (800, 2048)),
        ([dict(type='RandomChoiceResize', scales=[320, 640])], (320, 320)),
        # other uses of the keys: InstaBoost's, torchvision's and albumentations' ratios, one side
        ([dict(type='InstaBoost', scale=(0.8, 1.2)), dict(type='Resize', scale=64)], (64, 64)),
        ([dict(type='Albu', transforms=[dict(type='RandomResizedCrop', scale=(0, 1))])], None),
        ([dict(type='Resize', scale=(256, -1)), dict(type='Other', scales=4)], None),
        ([dict(type='RandomCrop', crop_size=(0.3, 0.5))], None),
    ],
)
def test_size_of_a_pipeline(pipeline, shape):
    loader = dict(dataset=dict(type='RepeatDataset', dataset=dict(pipeline=pipeline)))
    assert training_shape(Config(dict(model=dict(), train_dataloader=loader))) == shape


def test_classes_are_those_of_the_head():
    model = dict(type='ImageClassifier', head=dict(num_classes=3))
    cfg = Config(dict(model=model, default_scope='mmpretrain'))
    batch = zoo_batch(cfg, (8, 6), 30)
    assert {tuple(image.shape) for image in batch['inputs']} == {(3, 8, 6)}
    assert {int(sample.gt_label) for sample in batch['data_samples']} == {0, 1, 2}
    assert batch['data_samples'][0].img_shape == (8, 6)


@pytest.mark.parametrize('mean,channels', (([33.5], 1), ([0.0] * 4, 4), (None, 3)))
def test_channels_are_those_of_the_preprocessor(mean, channels):
    """Of the model or, as mmpretrain's configs have it, beside it."""
    model = dict(type='ImageClassifier', head=dict(num_classes=3))
    preprocessor = dict(mean=mean, std=mean)
    for cfg in (
        dict(model=model, data_preprocessor=preprocessor),
        dict(model=dict(model, data_preprocessor=preprocessor)),
    ):
        batch = zoo_batch(Config(dict(cfg, default_scope='mmpretrain')), (8, 6))
        assert {tuple(image.shape) for image in batch['inputs']} == {(channels, 8, 6)}


def test_a_preprocessor_may_be_a_name_or_a_class():
    """A config of the pure Python style has classes."""
    from mmdet.models.data_preprocessors import MultiBranchDataPreprocessor

    for kind in (MultiBranchDataPreprocessor, 'mmdet.MultiBranchDataPreprocessor'):
        model = dict(data_preprocessor=dict(type=kind), bbox_head=dict(num_classes=3))
        batch = zoo_batch(Config(dict(model=model, default_scope='mmdet')), (32, 32))
        assert sorted(batch['inputs']) == ['sup', 'unsup_student', 'unsup_teacher']


@pytest.mark.parametrize('head', [dict(ignore_index=254), [{}, dict(ignore_index=254)], {}])
def test_ignored_pixels_are_those_of_the_decode_head(head):
    """Another label is one of no class, on which a loss fails."""
    model = dict(type='EncoderDecoder', decode_head=head, auxiliary_head=dict(num_classes=3))
    (sample,) = zoo_batch(Config(dict(model=model, default_scope='mmseg')), (8, 8), 1)[
        'data_samples'
    ]
    labels = sample.gt_sem_seg.data
    assert labels[labels > 2].tolist() == [254 if head else 255] * 4  # one of sixteen blocks


@pytest.mark.parametrize(
    'head,step,given',
    [
        (dict(mask_head=dict(type='FCNMaskHead'), num_classes=3), {}, True),
        (dict(loss_mask=dict(type='DiceLoss'), num_classes=3), {}, True),
        (dict(num_classes=3), dict(with_mask=True), True),
        (dict(mask_head=None, num_classes=3), dict(with_mask=False), False),
    ],
)
def test_masks_where_a_detector_trains_on_them(head, step, given):
    loader = dict(dataset=dict(pipeline=[dict(type='LoadAnnotations', with_bbox=True, **step)]))
    cfg = dict(model=dict(head=head), default_scope='mmdet', train_dataloader=loader)
    (sample,) = zoo_batch(Config(cfg), (32, 24), 1)['data_samples']
    for instances, count in ((sample.gt_instances, 5), (sample.ignored_instances, 0)):
        assert len(instances) == count and ('masks' in instances) == given
    if given:
        left, top, right, bottom = sample.gt_instances.bboxes[0].long().tolist()
        assert sample.gt_instances.masks.areas[0] == (right - left) * (bottom - top)
