"""Real mmseg and mmdet models and batches, small enough for a test."""

import copy
import functools
import random

import numpy as np
import torch
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData, PixelData

import afan_mm  # noqa: F401  registers its components

NUM_CLASSES = 5


@functools.lru_cache(maxsize=None)
def _read_config(path):  # the hub reads a hundred files to find one
    return get_config(path)


def hub_model(path):
    """A copy of the model of a config of mmseg or mmdet."""
    return copy.deepcopy(_read_config(path).model)


def segmentor_config(dropout=0.0, auxiliary=True):
    """Stock DeepLabV3+ with a thin ResNet-18, as in ``mmseg::deeplabv3plus``."""
    model = hub_model('mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py')
    norm = dict(type='BN', requires_grad=True)
    model.update(pretrained=None)
    model.data_preprocessor.size = (32, 32)
    model.backbone.update(base_channels=8, norm_cfg=norm, zero_init_residual=False)
    model.decode_head.update(
        in_channels=64,
        channels=16,
        c1_in_channels=8,
        c1_channels=4,
        num_classes=NUM_CLASSES,
        dropout_ratio=dropout,
        norm_cfg=norm,
    )
    model.auxiliary_head.update(
        in_channels=32, channels=8, num_classes=NUM_CLASSES, dropout_ratio=dropout, norm_cfg=norm
    )
    if not auxiliary:
        model.pop('auxiliary_head')
    return model


def detector_config():
    """Stock Faster R-CNN with a thin ResNet-18 and FPN, as in ``mmdet::faster_rcnn``; every RoI is
    sampled, so none by chance.
    """
    model = hub_model('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    model.backbone.update(
        depth=18,
        base_channels=8,
        init_cfg=None,
        frozen_stages=-1,
        norm_eval=False,
        zero_init_residual=False,
    )
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.roi_head.bbox_roi_extractor.update(out_channels=16)
    model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=24, num_classes=NUM_CLASSES)
    model.train_cfg.rpn_proposal.update(nms_pre=40, max_per_img=20)
    model.train_cfg.rpn.sampler.update(num=100000, pos_fraction=1.0)
    model.train_cfg.rcnn.sampler.update(num=100000, pos_fraction=1.0)
    return model


def with_afan(model, neck=None, head=None):
    """The A-FAN config of a stock one.

    Args:
        neck, head: Settings of the sites; None leaves the site out.
    """
    model = copy.deepcopy(model)
    if neck is not None:
        stock = model.get('neck') or {}
        model.neck = dict(stock, type='AFANNeckWrapper', base=stock.get('type'), afan=neck)
    if head is not None:
        key, kind = (
            ('roi_head', 'AFANRoIHead')
            if 'roi_head' in model
            else ('decode_head', 'AFANDecodeHead')
        )
        model[key] = dict(model[key], type=kind, base=model[key]['type'], afan=head)
    return model


def build(config, seed=0) -> BaseModel:
    """The model in training mode, with weights that depend on the seed alone."""
    scope = 'mmdet' if 'roi_head' in config or 'bbox_head' in config else 'mmseg'
    if 'head' in config:  # a classifier's
        scope = 'mmpretrain'
    init_default_scope(scope)
    # Each test module may train either host, and a scope once set stays.
    with DefaultScope.overwrite_default_scope(scope):
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(config))
        model.init_weights()
    return model.train()


def segmentation_batch(seed=0, num_samples=2, size=32, ignore=False):
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for _ in range(num_samples):
        inputs.append(torch.randint(0, 256, (3, size, size), generator=generator).to(torch.uint8))
        labels = torch.randint(0, NUM_CLASSES, (1, size, size), generator=generator)
        sample = SegDataSample(
            gt_sem_seg=PixelData(data=torch.full_like(labels, 255) if ignore else labels)
        )
        sample.set_metainfo(
            dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def detection_batch(seed=0, num_samples=2, size=64, boxes=None):
    """Random images with two objects each, or with the given ``boxes``: per image a list of (x1,
    y1, x2, y2).
    """
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for index in range(num_samples):
        inputs.append(torch.randint(0, 256, (3, size, size), generator=generator).to(torch.uint8))
        if boxes is None:
            corner = torch.rand(2, 2, generator=generator) * size / 2
            corners = torch.cat(
                [corner, corner + size / 4 + torch.rand(2, 2, generator=generator) * size / 4], 1
            )
        else:
            corners = torch.tensor(boxes[index], dtype=torch.float32).reshape(-1, 4)
        labels = torch.randint(0, NUM_CLASSES, (len(corners),), generator=generator)
        sample = DetDataSample(gt_instances=InstanceData(bboxes=corners, labels=labels))
        sample.set_metainfo(
            dict(
                img_shape=(size, size),
                ori_shape=(size, size),
                pad_shape=(size, size),
                scale_factor=(1.0, 1.0),
            )
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def optim_wrapper(model, kind='AFANOptimWrapper', **kwargs):
    """SGD in the given wrapper."""
    return build_optim_wrapper(
        model, dict(type=kind, optimizer=dict(type='SGD', lr=0.01, momentum=0.9), **kwargs)
    )


def gradients(model, batch, wrapper=None):
    """``.grad`` of every parameter after one forward and backward of the wrapper, by name; no
    update.
    """
    wrapper = wrapper or optim_wrapper(model)
    model.zero_grad()
    with wrapper.optim_context(model):
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        losses = model._run_forward(data, mode='loss')
    wrapper.backward(model.parse_losses(losses)[0])
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


HOSTS = ('segmentor', 'detector')


def stock_config(host):
    """The stock config of a host."""
    return dict(segmentor=segmentor_config, detector=detector_config)[host]()


def batch_of(host, **kwargs):
    """A batch for a host."""
    return dict(segmentor=segmentation_batch, detector=detection_batch)[host](**kwargs)


def train(model, wrapper, batches):
    """One ``train_step`` per batch; what each logged, as plain numbers."""
    logs = [model.train_step(copy.deepcopy(batch), wrapper) for batch in batches]
    return [{key: float(value.detach()) for key, value in log.items()} for log in logs]


def gradients_at_updates(model, wrapper, batches):
    """Train as :func:`train` does; the gradients, by name, with which each update of the optimizer
    was made.
    """
    host, kept = getattr(model, 'module', model), []

    def keep(optimizer, args, kwargs):
        kept.append(
            {
                name: None if p.grad is None else p.grad.clone()
                for name, p in host.named_parameters()
            }
        )

    handle = wrapper.optimizer.register_step_pre_hook(keep)
    train(model, wrapper, batches)
    handle.remove()
    return kept


def average(gradients, weights=None):
    """The weighted mean of several :func:`gradients`; what None has everywhere stays None."""
    weights = weights or [1 / len(gradients)] * len(gradients)
    result = {}
    for name in gradients[0]:
        present = [w * g[name] for w, g in zip(weights, gradients) if g[name] is not None]
        result[name] = sum(present) if present else None
    return result


def assert_close(ours, expected, rtol=1e-4, atol=1e-6):
    """Dicts of tensors or None by name, equal up to rounding in float32."""
    assert ours.keys() == expected.keys()
    for name, reference in expected.items():
        assert (ours[name] is None) == (reference is None), name
        if reference is not None:
            torch.testing.assert_close(
                ours[name],
                reference,
                rtol=rtol,
                atol=atol * max(1.0, float(reference.abs().max())),
                msg=name,
            )


def assert_identical(ours, expected):
    """Dicts of tensors or numbers by name, equal in every bit, NaN included."""
    assert ours.keys() == expected.keys()
    different = [
        k
        for k in expected
        if not np.array_equal(_array(ours[k]), _array(expected[k]), equal_nan=True)
    ]
    assert not different


def _array(value):
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def parameters(model):
    """Copies of all parameters and buffers by name."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def seed_everything(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def random_streams():
    """The state of each global random stream, by its name."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return dict(
        torch=torch.get_rng_state(),
        numpy=keys.astype(np.int64),  # torch 2.0 takes no others
        numpy_position=[position, has_gauss, gauss],
        python=random.getstate()[1],
    )
