# Stock Faster R-CNN R50 C4 on Pascal VOC2007: the baseline of Tables 6 and 10.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py',
    '../_base_/datasets/voc07_det.py',
    '../_base_/schedules/det_11250.py',
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=20)))
