# Sec. 4, CIFAR: SGD, batches of 128, 200 epochs, a tenth of the rate after 50 and after 150 epochs,
# linear warm-up over 200 iterations, from 1/200 of the rate as the released code starts. The
# checkpoint that is best on the validation images is the one to test ("early stopping").
_base_ = 'mmpretrain::_base_/default_runtime.py'

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 200, by_epoch=False, begin=0, end=200),
    dict(type='MultiStepLR', by_epoch=True, milestones=[50, 150], gamma=0.1),
]
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1, save_best='accuracy/top1', rule='greater')
)
