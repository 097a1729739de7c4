# A-FAN on Pascal VOC2007: Table 8.
_base_ = [
    './deeplabv3plus_r50-d8_1xb4-10k_voc07-513x513.py',
    '../_base_/afan.py',
    '../_base_/presets/paper.py',
]

optim_wrapper = _base_.seg_voc07.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.seg_voc07.neck),
    decode_head=dict(
        type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=_base_.seg_voc07.head
    ),
)
