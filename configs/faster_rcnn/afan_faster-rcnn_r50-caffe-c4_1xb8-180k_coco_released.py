# COCO2017 as the released code trains it: weight decay 1e-4, warm-up over 500 iterations, and the
# settings of presets/released.py.
_base_ = [
    './faster-rcnn_r50-caffe-c4_1xb8-180k_coco.py',
    '../_base_/afan.py',
    '../_base_/presets/released.py',
]

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), **_base_.det_coco.optim_wrapper)
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.det_coco.neck),
    roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=_base_.det_coco.head),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        milestones=[120000, 160000],
        gamma=0.1,
        by_epoch=False,
        begin=0,
        end=180000,
    ),
]
