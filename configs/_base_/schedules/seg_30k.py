# Table 5, segmentation: SGD, 30,000 iterations, polynomial decay of power 0.9, linear warm-up over
# 100 iterations. It gives neither the decay's end (0 here, as the plain polynomial has it; mmseg's
# schedules stop at 1e-4) nor the warm-up's start (0.001 of the rate, as in mmdet's). The polynomial
# counts from iteration 0 and ends in the last one, as mmengine has it; warm-up multiplies it.
_base_ = 'mmseg::_base_/default_runtime.py'

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    clip_grad=None,
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', eta_min=0, power=0.9, by_epoch=False, begin=0, end=30000),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=30000, val_interval=3000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3000, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
