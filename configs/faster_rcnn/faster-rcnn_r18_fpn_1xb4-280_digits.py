# Stock Faster R-CNN on generated digits (tools/dataset_converters/digits_voc.py).
_base_ = './faster-rcnn_r18_fpn_scratch.py'

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),  # digits are 20 to 50 pixels high
    roi_head=dict(bbox_head=dict(num_classes=5)),
)

data_root = 'data/digits/'
# mmdet 3.0 wants every key that is packed, and digits are not flipped
pack = dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(96, 96), ratio_range=(0.9, 1.2), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(96, 96)),
    pack,
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    pack,
]
dataset = dict(
    _delete_=True,
    type='XMLDataset',
    metainfo=dict(classes=('0', '1', '2', '3', '4')),
    data_root=data_root,
    data_prefix=dict(sub_data_root=''),
)
train_dataloader = dict(
    dataset=dict(
        ann_file='ImageSets/Main/train.txt',
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
        **dataset,
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file='ImageSets/Main/val.txt', test_mode=True, pipeline=test_pipeline, **dataset
    )
)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=280, val_interval=280)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=280, by_epoch=False),
]
