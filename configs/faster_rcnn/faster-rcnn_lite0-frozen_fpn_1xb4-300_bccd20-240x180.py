# Stock Faster R-CNN on frozen EfficientNet-Lite0 features of 20 BCCD images, for 60 epochs.
_base_ = './faster-rcnn_lite0_fpn_1xb4-300_bccd20-240x180.py'

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
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
