# Stock DeepLabV3+ R50 on Cityscapes: the baseline of Table 8. Its learning rate is ten times that
# of the others (Table 5).
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/seg_30k.py',
]

data_preprocessor = dict(size=(768, 768))
model = dict(data_preprocessor=data_preprocessor)

optim_wrapper = dict(optimizer=dict(lr=0.1))
