# A-FAN on COCO2017 with R50 C4: Table 6.
_base_ = [
    './faster-rcnn_r50-caffe-c4_1xb8-180k_coco.py',
    '../_base_/afan.py',
    '../_base_/presets/paper.py',
]

optim_wrapper = _base_.det_coco.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.det_coco.neck),
    roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=_base_.det_coco.head),
)
