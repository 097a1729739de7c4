# Table 7 (VOC2007+2012) has no schedule in the paper, which points to Zoph et al. (2019). Chosen
# here: that of Table 5 for VOC2007 with as many epochs, 18, over the 3.3 times as many images:
# iterations and decay points x 10/3.
_base_ = './det_11250.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(
        type='MultiStepLR', milestones=[20833, 29167], gamma=0.1, by_epoch=False, begin=0, end=37500
    ),
]
train_cfg = dict(max_iters=37500, val_interval=7500)
default_hooks = dict(checkpoint=dict(interval=7500))
