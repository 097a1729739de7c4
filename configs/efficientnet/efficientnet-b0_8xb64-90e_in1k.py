# EfficientNet-B0 on ImageNet: Table 3.
_base_ = [
    'mmpretrain::_base_/models/efficientnet_b0.py',
    '../_base_/datasets/in1k.py',
    '../_base_/schedules/cls_in1k.py',
]
