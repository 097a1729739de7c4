# Table 5, detection on COCO2017: 180,000 iterations of 8 images, x0.1 after 120,000 and 160,000.
_base_ = './det_11250.py'

optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(
        type='MultiStepLR',
        milestones=[120000, 160000],
        gamma=0.1,
        by_epoch=False,
        begin=0,
        end=180000,
    ),
]
train_cfg = dict(max_iters=180000, val_interval=20000)
default_hooks = dict(checkpoint=dict(interval=20000))
