# Pascal VOC2007 as the released code trains it: warm-up over 500 iterations, and the settings of
# presets/released.py.
_base_ = [
    './faster-rcnn_r50-caffe-c4_1xb8-11250_voc07.py',
    '../_base_/afan.py',
    '../_base_/presets/released.py',
]

optim_wrapper = _base_.det_voc07.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.det_voc07.neck),
    roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=_base_.det_voc07.head),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR', milestones=[6250, 8750], gamma=0.1, by_epoch=False, begin=0, end=11250
    ),
]
