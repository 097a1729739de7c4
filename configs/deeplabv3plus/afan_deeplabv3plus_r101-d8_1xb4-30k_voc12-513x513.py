# A-FAN on Pascal VOC2012 with R101: Table 8.
_base_ = './afan_deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py'

model = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
