# A-FAN on Cityscapes: Table 8.
_base_ = [
    './deeplabv3plus_r50-d8_1xb4-30k_cityscapes-768x768.py',
    '../_base_/afan.py',
    '../_base_/presets/paper.py',
]

optim_wrapper = _base_.seg_cityscapes.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.seg_cityscapes.neck),
    decode_head=dict(
        type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=_base_.seg_cityscapes.head
    ),
)
