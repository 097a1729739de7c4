# Pascal VOC2007 detection, trainval -> test, 8 images a batch (Table 5), 600 to 1,000 pixels as in
# mmdet and the released code. mmdet's voc0712.py ignores boxes below 32 pixels; that filter is left
# out, as in mmdet's C4 config for VOC.
_base_ = 'mmdet::_base_/datasets/voc0712.py'

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        _delete_=True,
        type='VOCDataset',
        data_root={{_base_.data_root}},
        ann_file='VOC2007/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline={{_base_.train_pipeline}},
    ),
)
