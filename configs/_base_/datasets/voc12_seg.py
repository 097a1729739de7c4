# Pascal VOC2012, train -> val (1,464 and 1,449 images, not the augmented set), 4 images a batch
# (Table 5). The paper gives no crop: 513, as in the released code; the rest is mmseg's pipeline.
_base_ = 'mmseg::_base_/datasets/pascal_voc12.py'

crop_size = (513, 513)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
