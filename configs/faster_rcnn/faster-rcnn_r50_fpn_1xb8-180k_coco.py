# Stock Faster R-CNN R50 FPN on COCO2017: the baseline of Table 6.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_det.py',
    '../_base_/schedules/det_180k.py',
]
