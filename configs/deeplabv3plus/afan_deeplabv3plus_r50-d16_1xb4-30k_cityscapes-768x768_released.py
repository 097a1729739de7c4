# Cityscapes as the released code trains it: poly decay without warm-up, and the settings of
# presets/released.py.
_base_ = [
    './deeplabv3plus_r50-d8_1xb4-30k_cityscapes-768x768.py',
    '../_base_/afan.py',
    '../_base_/presets/released.py',
]

optim_wrapper = _base_.seg_cityscapes.optim_wrapper
model = dict(
    backbone=_base_.seg_model.backbone,
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.seg_cityscapes.neck),
    decode_head=dict(
        type='AFANDecodeHead',
        base='DepthwiseSeparableASPPHead',
        afan=_base_.seg_cityscapes.head,
        **_base_.seg_model.decode_head,
    ),
    auxiliary_head=_base_.seg_model.auxiliary_head,
)

param_scheduler = [dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=0, end=30000)]
