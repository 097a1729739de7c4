# A-FAN as the released code has it: augmentation alone, at the end of the first stage. It trains on
# the first nine tenths of the images and warms up over an epoch, 351 iterations of 352.
_base_ = ['./resnet56s_1xb128-200e_cifar10.py', '../_base_/presets/released.py']

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.cls_cifar.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base='GlobalAveragePooling', afan=_base_.cls_cifar.neck)
)
train_dataloader = dict(dataset=dict(fold=9, seed=None))
val_dataloader = dict(dataset=dict(fold=9, seed=None))
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 351, by_epoch=False, begin=0, end=351),
    dict(type='MultiStepLR', by_epoch=True, milestones=[50, 150], gamma=0.1),
]
