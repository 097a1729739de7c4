# ResNet-20s on CIFAR-100: Table 2.
_base_ = ['../_base_/datasets/cifar100.py', '../_base_/schedules/cls_cifar.py']
# The module of the network; nothing of A-FAN is in this config.
custom_imports = dict(imports=['afan_mm', 'afan_mm.models.resnet_s'], allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNetS', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
