# Pascal VOC2007 as the released code trains it: poly decay over 15,000 iterations without warm-up,
# and the settings of presets/released.py.
_base_ = [
    './deeplabv3plus_r50-d8_1xb4-10k_voc07-513x513.py',
    '../_base_/afan.py',
    '../_base_/presets/released.py',
]

optim_wrapper = _base_.seg_voc07.optim_wrapper
model = dict(
    backbone=_base_.seg_model.backbone,
    neck=dict(type='AFANNeckWrapper', base=None, afan=_base_.seg_voc07.neck),
    decode_head=dict(
        type='AFANDecodeHead',
        base='DepthwiseSeparableASPPHead',
        afan=_base_.seg_voc07.head,
        **_base_.seg_model.decode_head,
    ),
    auxiliary_head=_base_.seg_model.auxiliary_head,
)

param_scheduler = [dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=0, end=15000)]
train_cfg = dict(max_iters=15000)

# It trains on train and evaluates on val, where the paper says trainval and test.
train_dataloader = dict(dataset=dict(ann_file='ImageSets/Segmentation/train.txt'))
val_dataloader = dict(dataset=dict(ann_file='ImageSets/Segmentation/val.txt'))
test_dataloader = val_dataloader
