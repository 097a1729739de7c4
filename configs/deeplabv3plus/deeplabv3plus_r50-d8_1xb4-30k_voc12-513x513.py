# Stock DeepLabV3+ R50 on Pascal VOC2012: the baseline of Tables 8 and 10.
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/datasets/voc12_seg.py',
    '../_base_/schedules/seg_30k.py',
]

data_preprocessor = dict(size=(513, 513))
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21),
)
