# A-FAN on ResNet-56s, CIFAR-100: Table 2.
_base_ = ['./resnet56s_1xb128-200e_cifar100.py', '../_base_/presets/paper.py']

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.cls_cifar.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base='GlobalAveragePooling', afan=_base_.cls_cifar.neck)
)
