# The late sites of a two-stage detector with an FPN, with the preset `recommended`: what the heads
# read, and map and vector of a RoI.
_base_ = './presets/recommended.py'

_late = _base_.late
late_fpn = dict(
    neck=dict(
        type='AFANNeckWrapper',
        base='FPN',
        afan=dict(_late, site='output', levels=(0, 1, 2, 3, 4)),
    ),
    roi_head=dict(
        type='AFANRoIHead', base='StandardRoIHead', afan=[dict(_late, site='map'), _late]
    ),
)
