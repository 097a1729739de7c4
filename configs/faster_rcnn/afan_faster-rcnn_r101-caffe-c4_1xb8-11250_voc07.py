# A-FAN on Pascal VOC2007 with R101 C4: Table 6.
_base_ = './afan_faster-rcnn_r50-caffe-c4_1xb8-11250_voc07.py'

init_cfg = dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe')
model = dict(
    backbone=dict(depth=101, init_cfg=init_cfg),
    roi_head=dict(shared_head=dict(depth=101, init_cfg=init_cfg)),
)
