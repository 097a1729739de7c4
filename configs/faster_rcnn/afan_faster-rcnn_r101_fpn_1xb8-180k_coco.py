# A-FAN on COCO2017 with R101 FPN: Table 6.
_base_ = './afan_faster-rcnn_r50_fpn_1xb8-180k_coco.py'

model = dict(
    backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'))
)
