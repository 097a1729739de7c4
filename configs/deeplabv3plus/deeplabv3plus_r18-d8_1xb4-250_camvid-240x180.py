# Stock DeepLabV3+ on CamVid at half size, from scratch.
_base_ = './deeplabv3plus_r18-d8_scratch.py'

data_preprocessor = dict(size=(180, 240))
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)

data_root = 'data/camvid'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(180, 240)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(240, 180), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    metainfo=dict(
        classes=(
            'Sky',
            'Building',
            'Pole',
            'Road',
            'Pavement',
            'Tree',
            'SignSymbol',
            'Fence',
            'Car',
            'Pedestrian',
            'Bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    ),
    data_root=data_root,
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'),
        pipeline=test_pipeline,
        **dataset,
    )
)
test_dataloader = val_dataloader

param_scheduler = [dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=250, by_epoch=False)]
train_cfg = dict(max_iters=250, val_interval=250)
default_hooks = dict(checkpoint=dict(interval=125))
