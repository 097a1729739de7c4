# Stock DeepLabV3+ R50 on Pascal VOC2007: the baseline of Table 8.
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/datasets/voc07_seg.py',
    '../_base_/schedules/seg_30k.py',
]

data_preprocessor = dict(size=(513, 513))
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=0, power=0.9, by_epoch=False, begin=0, end=10000),
]
train_cfg = dict(max_iters=10000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
