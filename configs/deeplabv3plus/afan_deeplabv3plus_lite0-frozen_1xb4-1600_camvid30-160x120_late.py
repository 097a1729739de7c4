# A-FAN at late sites, perturbed together: the last feature that the head reads, and what its
# classifier reads.
_base_ = [
    './deeplabv3plus_lite0-frozen_1xb4-1600_camvid30-160x120.py',
    '../_base_/presets/recommended.py',
]

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.everywhere.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.late),
    decode_head=dict(type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=_base_.late),
)
