# A-FAN at late sites, perturbed together: what the heads read, and map and vector of a RoI.
_base_ = [
    './faster-rcnn_lite0_fpn_1xb4-300_bccd20-240x180.py',
    '../_base_/presets/recommended.py',
]

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.everywhere.optim_wrapper
_late = _base_.late
model = dict(
    neck=dict(
        type='AFANNeckWrapper',
        base='FPN',
        afan=dict(_late, site='output', levels=(0, 1, 2, 3, 4)),
    ),
    roi_head=dict(
        type='AFANRoIHead', base='StandardRoIHead', afan=[dict(_late, site='map'), _late]
    ),
)
