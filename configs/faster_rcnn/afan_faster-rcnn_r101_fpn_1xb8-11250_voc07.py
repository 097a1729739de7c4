# A-FAN on Pascal VOC2007 with R101 FPN: Table 6.
_base_ = './afan_faster-rcnn_r50_fpn_1xb8-11250_voc07.py'

model = dict(
    backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'))
)
