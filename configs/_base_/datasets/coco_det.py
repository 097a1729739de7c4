# COCO2017, train -> val, 8 images a batch (Table 5).
_base_ = 'mmdet::_base_/datasets/coco_detection.py'

train_dataloader = dict(batch_size=8, num_workers=4, sampler=dict(type='InfiniteSampler'))
