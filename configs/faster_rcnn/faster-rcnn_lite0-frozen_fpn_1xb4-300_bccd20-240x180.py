# Stock Faster R-CNN on frozen EfficientNet-Lite0 features of 20 BCCD images, for 60 epochs.
_base_ = './faster-rcnn_lite0_fpn_1xb4-250_bccd40-240x180.py'

_backbone = {**_base_.model.backbone, 'type': 'mmpretrain.TIMMBackbone'}
for _key in ('_delete_', 'base', 'frozen', 'frozen_norms'):
    _backbone.pop(_key, None)
model = dict(backbone=dict(_delete_=True, type='FeatureCache', base=_backbone))

# one scale, so that an image has the same features in every epoch, but for flips
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(240, 180), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(num_samples=20, dataset=dict(pipeline=train_pipeline)))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=300, by_epoch=False),
]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
