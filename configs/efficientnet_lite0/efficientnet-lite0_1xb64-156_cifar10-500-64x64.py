# Stock EfficientNet-Lite0 from ImageNet, fine-tuned whole on 500 CIFAR-10 images, 50 of each class,
# which the run's seed draws; 20 epochs at 64 x 64. Weights: tools/model_converters/
# efficientnet_lite0.py. Data: a folder for each class in data/cifar10/train and data/cifar10/val.
_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
# The seeded subset only; nothing of A-FAN is in this config.
custom_imports = dict(imports=['afan_mm'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='PartlyFrozen',
        base='mmpretrain.TIMMBackbone',
        channels_last=True,
        model_name='tf_efficientnet_lite0',
        bn_momentum=0.05,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/pretrained/efficientnet_lite0.pth',
            prefix='backbone',
        ),
    ),
    head=dict(in_channels=1280),
)
data_preprocessor = dict(mean=[127, 127, 127], std=[128, 128, 128], to_rgb=True)

resize = dict(type='Resize', scale=64, interpolation='bicubic')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4, padding_mode='reflect'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    resize,
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), resize, dict(type='PackInputs')]
dataset = dict(type='CustomDataset', data_root='data/cifar10')
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type='SeededSubset',
        num_samples=500,
        balanced=True,
        dataset=dict(data_prefix='train', pipeline=train_pipeline, **dataset),
    ),
    sampler=dict(type='InfiniteSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(_delete_=True, data_prefix='val', pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader

optim_wrapper = dict(
    optimizer=dict(lr=0.03, nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=156),
]
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=156, val_interval=156)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(by_epoch=False, interval=156, max_keep_ckpts=1)
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
