# Stock DeepLabV3+ on generated digits (tools/dataset_converters/digits_voc.py).
_base_ = './deeplabv3plus_r18-d8_scratch.py'

data_preprocessor = dict(size=(96, 96))
# Nine pixels in ten are background.
head = dict(num_classes=6, loss_decode=dict(class_weight=[0.3, 1, 1, 1, 1, 1]))
model = dict(data_preprocessor=data_preprocessor, decode_head=head, auxiliary_head=head)

data_root = 'data/digits'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(96, 96), ratio_range=(1.0, 1.3), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(96, 96)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(
    _delete_=True,
    type='BaseSegDataset',
    metainfo=dict(
        classes=('background', '0', '1', '2', '3', '4'),
        palette=[[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]],
    ),
    data_root=data_root,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(ann_file='ImageSets/Segmentation/train.txt', pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    dataset=dict(ann_file='ImageSets/Segmentation/val.txt', pipeline=test_pipeline, **dataset)
)
test_dataloader = val_dataloader

param_scheduler = [dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=300, by_epoch=False)]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=150))
