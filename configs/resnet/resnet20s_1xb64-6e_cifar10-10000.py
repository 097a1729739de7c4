# ResNet-20s from scratch on 10,000 CIFAR-10 images, tested on 5,000 others: a run of ten minutes on
# a CPU core, for which Table 2's batches are halved and its 200 epochs are 6, of a cosine. Data: a
# folder for each class in data/cifar10/train and data/cifar10/val.
_base_ = './resnet20s_1xb128-200e_cifar10.py'

dataset = dict(_delete_=True, type='CustomDataset', data_root='data/cifar10')
load = dict(type='LoadImageFromFile')
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_prefix='train', pipeline=[load, *_base_.train_pipeline], **dataset),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_prefix='val', pipeline=[load, *_base_.test_pipeline], **dataset),
)
test_dataloader = val_dataloader
data_preprocessor = dict(to_rgb=True)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=80),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=80, end=942),
]
train_cfg = dict(max_epochs=6, val_interval=6)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=6, save_best=None))
