# Stock Faster R-CNN on BCCD, blood cells at three eighths of their size, from scratch.
_base_ = './faster-rcnn_r18_fpn_scratch.py'

model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))

data_root = 'data/bccd/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(240, 180), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
dataset = dict(
    _delete_=True,
    type='XMLDataset',
    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
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
