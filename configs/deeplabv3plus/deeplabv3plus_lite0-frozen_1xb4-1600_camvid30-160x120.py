# Stock DeepLabV3+ head on frozen EfficientNet-Lite0 features of 30 CamVid images, for 213
# epochs.
_base_ = './deeplabv3plus_lite0-d16_1xb8-900_camvid30-160x120.py'

_backbone = {**_base_.model.backbone, 'type': 'mmseg.TIMMBackbone'}
for _key in ('_delete_', 'base', 'frozen', 'channels_last'):
    _backbone.pop(_key, None)
model = dict(backbone=dict(_delete_=True, type='FeatureCache', base=_backbone))

train_dataloader = dict(batch_size=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', eta_min=0, power=0.9, by_epoch=False, begin=20, end=1600),
]
train_cfg = dict(max_iters=1600, val_interval=1600)
default_hooks = dict(checkpoint=dict(interval=1600))
