# Table 5, detection on Pascal VOC2007: SGD, 11,250 iterations of 8 images, x0.1 after 6,250 and
# 8,750, linear warm-up over 100. The warm-up's start is not given: 0.001 of the rate, as in mmdet's
# schedules.
_base_ = 'mmdet::_base_/default_runtime.py'

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.008, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(
        type='MultiStepLR', milestones=[6250, 8750], gamma=0.1, by_epoch=False, begin=0, end=11250
    ),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=11250, val_interval=1250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1250, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=8)
