# A-FAN with the settings of Table 2, on a fifth of its images.
_base_ = ['./resnet20s_1xb64-6e_cifar10-10000.py', '../_base_/presets/paper.py']

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.cls_cifar.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base='GlobalAveragePooling', afan=_base_.cls_cifar.neck)
)
