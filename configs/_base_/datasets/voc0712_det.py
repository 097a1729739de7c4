# Pascal VOC2007 and VOC2012 -> VOC2007 test (4,952 images; the paper says 4,953). Table 7's
# "training sets" are read as the trainval lists of both years (16,551 images): what Sec. 5 trains
# VOC2007 on, and what the released loader of the two takes.
_base_ = './voc07_det.py'

voc07 = {{_base_.train_dataloader.dataset}}
voc12 = dict(
    type='VOCDataset',
    data_root={{_base_.data_root}},
    ann_file='VOC2012/ImageSets/Main/trainval.txt',
    data_prefix=dict(sub_data_root='VOC2012/'),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    pipeline={{_base_.train_pipeline}},
)
# The two name their own dataset_type, which ConcatDataset would refuse.
train_dataloader = dict(
    dataset=dict(
        _delete_=True, type='ConcatDataset', ignore_keys=['dataset_type'], datasets=[voc07, voc12]
    )
)
