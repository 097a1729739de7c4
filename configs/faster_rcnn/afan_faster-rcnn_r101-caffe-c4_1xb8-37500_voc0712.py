# A-FAN on VOC2007+2012 with R101 C4: Table 7, with the strengths of VOC2007.
_base_ = [
    './faster-rcnn_r101-caffe-c4_1xb8-37500_voc0712.py',
    '../_base_/afan.py',
    '../_base_/presets/paper.py',
]

optim_wrapper = _base_.det_voc07.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.det_voc07.neck),
    roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=_base_.det_voc07.head),
)
