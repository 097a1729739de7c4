# Stock Faster R-CNN R101 C4 on VOC2007+2012 with learned data augmentation: LDA in Table 7.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50-caffe-c4.py',
    '../_base_/datasets/voc0712_lda_det.py',
    '../_base_/schedules/det_37500.py',
]

init_cfg = dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe')
model = dict(
    backbone=dict(depth=101, init_cfg=init_cfg),
    roi_head=dict(shared_head=dict(depth=101, init_cfg=init_cfg), bbox_head=dict(num_classes=20)),
)
