# ResNet-18 on CIFAR-10: Table 4 and Figure 4.
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cls_cifar.py',
]
