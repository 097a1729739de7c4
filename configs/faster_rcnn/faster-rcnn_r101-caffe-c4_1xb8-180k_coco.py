# Stock Faster R-CNN R101 C4 on COCO2017: the baseline of Table 6.
_base_ = './faster-rcnn_r50-caffe-c4_1xb8-180k_coco.py'

init_cfg = dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe')
model = dict(
    backbone=dict(depth=101, init_cfg=init_cfg),
    roi_head=dict(shared_head=dict(depth=101, init_cfg=init_cfg)),
)
