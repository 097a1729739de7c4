# Stock Faster R-CNN R101 FPN on COCO2017: the baseline of Table 6.
_base_ = './faster-rcnn_r50_fpn_1xb8-180k_coco.py'

model = dict(
    backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'))
)
