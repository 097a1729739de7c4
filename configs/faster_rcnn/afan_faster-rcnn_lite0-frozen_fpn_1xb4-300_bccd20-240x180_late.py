# A-FAN at late sites, perturbed together.
_base_ = [
    './faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180.py',
    '../_base_/late_fpn.py',
]

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.everywhere.optim_wrapper
model = _base_.late_fpn
