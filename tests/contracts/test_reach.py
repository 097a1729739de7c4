"""Families beyond the paper's two, from the configs that mmdet and mmseg install, converted with
nothing written by hand.
"""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from afan_mm.conversion import convert, converted
from afan_mm.random_batches import zoo_batch
from support.families import family_model
from support.tiny import assert_identical, random_streams, seed_everything
from support.versions import counts_operations

NESTED = ('soft_teacher', 'qdtrack')
STAGES = [f'roi_head.s{stage}' for stage in range(3)]
FAMILIES = {
    # one stage, anchors and points, and a transformer
    'mmdet/retinanet/retinanet_r50_fpn_1x_coco.py': ['neck'],
    'mmdet/fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': ['neck'],
    'mmdet/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': ['neck'],
    # a neck of two modules; proposals that come with the data; a box head of two inputs; a history
    'mmdet/libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py': ['neck', 'roi_head'],
    'mmdet/fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py': ['neck', 'roi_head'],
    'mmdet/double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py': ['neck', 'roi_head'],
    'mmdet/dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py': ['neck', 'roi_head'],
    # cascades with masks, a panoptic head
    'mmdet/cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py': ['neck', *STAGES],
    'mmdet/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py': ['neck', 'roi_head'],
    # boxes that are learned, before any image
    'mmdet/sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py': [
        'neck',
        *[f'roi_head.s{stage}' for stage in range(6)],
    ],
    # a host inside another: two branches of a semi-supervised one, two frames of a tracker
    'mmdet/soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py': [
        'neck',
        'roi_head',
    ],
    'mmdet/qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py': ['neck', 'roi_head'],
    # cascaded heads, heads that return several tensors, heads without the usual classifier
    'mmseg/point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py': ['neck'],
    'mmseg/encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py': ['decode_head', 'neck'],
    'mmseg/danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py': ['decode_head', 'neck'],
    'mmseg/ocrnet/ocrnet_r101-d8_8xb2-40k_cityscapes-512x1024.py': ['decode_head', 'neck'],
    'mmseg/knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py': ['neck'],
    # models that take no neck
    'mmseg/san/san-vit-b16_coco-stuff164k-640x640.py': ['image_encoder.layers.1'],
    'mmdet/mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py': ['backbone.layer4'],
}


FROM_CHECKPOINTS = ('san',)  # whose stock `init_weights` needs one


def build(model, path):
    seed_everything(0)
    model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(model))).train()
    if path.split('/')[1] in FROM_CHECKPOINTS:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    else:
        model.init_weights()
    return model


def config_of(path):
    """Of a small model of a family."""
    try:
        model = family_model(path, (64, 64))
    except FileNotFoundError:
        pytest.skip(f'the installed version has no {path}')
    return Config(
        dict(
            model=model,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            default_scope=path.partition('/')[0],
        )
    )


def step(cfg, model):
    """The gradients of one training step, by name, and the optim wrapper."""
    wrapper, kept = build_optim_wrapper(model, cfg.optim_wrapper), {}
    wrapper.optimizer.register_step_pre_hook(
        lambda *args: kept.update(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        )
    )
    if hasattr(wrapper, 'health'):
        wrapper.health.due = True
    batch = zoo_batch(cfg, (64, 64))
    seed_everything(1)
    model.train_step(batch, wrapper)
    return kept, wrapper


def perturbed_sites(cfg, path, **options):
    """Of a step of what a detector's config is converted to, in which the neck is moved."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        new = converted(cfg, **options)
        found, wrapper = step(new, build(new.model, path))
    report = wrapper.health.report()
    assert report['neck/delta_norm'] > 0
    assert all(gradient.isfinite().all() for gradient in found.values())
    return {key.rpartition('/')[0] for key in report if key.endswith('/delta_norm')}


@counts_operations
@pytest.mark.parametrize('family, stages', [('cascade_rcnn', 3), ('sparse_rcnn', 6)])
def test_late_sites_of_a_cascade(family, stages):
    """From the RoI map of one stage no pass reaches the next one: the neck's output is a site, too,
    even where more than the largest share comes after it.
    """
    path = next(path for path in FAMILIES if path.split('/')[1] == family)
    cfg = config_of(path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        how = convert(cfg, max_tail_share=1e-3).notes[-2]
    assert how.startswith('Late sites have a tail share of at most 0.001, but for output, from wh')
    sites = perturbed_sites(cfg, path, max_tail_share=1e-3)
    assert len(sites) == 1 + stages and 'neck' in sites


@counts_operations
@pytest.mark.parametrize('path', [path for path in FAMILIES if path.split('/')[1] in NESTED])
def test_late_sites_of_a_host_inside_another(path):
    """The directions of the RoI map are for the clean pass's RoIs, which the joint pass keeps, of
    two branches too.
    """
    cfg = config_of(path)
    assert perturbed_sites(cfg, path) == {'neck', 'roi_head.map', 'roi_head.vector'}


@pytest.mark.parametrize(
    'path, sites',
    sorted(FAMILIES.items()),
    ids=lambda value: value.split('/')[1] if isinstance(value, str) else '',
)
def test_family_trains_converted(path, sites):
    """The stock step bit for bit under the stock optim wrapper; finite, with another gradient and
    no trace, under A-FAN's.
    """
    cfg = config_of(path)
    with DefaultScope.overwrite_default_scope(path[:5]):
        asked = [site for site in sites if '.layer' in site]  # those that must be named
        new = converted(cfg, asked or None, 'paper', epsilon=0.1, num_strengths=2)
        stock = build(cfg.model, path)
        weights = copy.deepcopy(stock.state_dict())
        expected, _ = step(cfg, stock)
        model = build(new.model, path)
        model.load_state_dict(weights)
        assert_identical(step(cfg, model)[0], expected)
        assert_identical(model.state_dict(), stock.state_dict())
        streams = random_streams()
        model = build(new.model, path)
        model.load_state_dict(weights)
        ours, wrapper = step(new, model)
    assert_identical(random_streams(), streams)
    assert sorted({key.rpartition('/')[0] for key in wrapper.health.report()}) == sites
    assert all(gradient.isfinite().all() for gradient in ours.values())
    assert any(not torch.equal(ours[name], expected[name]) for name in expected)
    # what the host counts and averages, it did once
    assert_identical(dict(model.named_buffers()), dict(stock.named_buffers()))
