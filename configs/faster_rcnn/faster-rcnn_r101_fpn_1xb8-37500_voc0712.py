# Stock Faster R-CNN R101 FPN on VOC2007+2012: the baseline of Table 7.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/voc0712_det.py',
    '../_base_/schedules/det_37500.py',
]

model = dict(
    backbone=dict(
        depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')
    ),
    roi_head=dict(bbox_head=dict(num_classes=20)),
)
