# A-FAN on Pascal VOC2007 with R50 FPN: Table 6.
_base_ = [
    './faster-rcnn_r50_fpn_1xb8-11250_voc07.py',
    '../_base_/afan.py',
    '../_base_/presets/paper.py',
]

optim_wrapper = _base_.det_voc07.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base='FPN', afan=_base_.det_voc07.neck),
    roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=_base_.det_voc07.head),
)
