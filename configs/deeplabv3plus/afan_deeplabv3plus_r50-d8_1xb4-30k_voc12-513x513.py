# A-FAN on Pascal VOC2012: Tables 8, 10 and 11.
_base_ = [
    './deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py',
    '../_base_/afan.py',
    '../_base_/presets/paper.py',
]

optim_wrapper = _base_.seg_voc12.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.seg_voc12.neck),
    decode_head=dict(
        type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=_base_.seg_voc12.head
    ),
)
