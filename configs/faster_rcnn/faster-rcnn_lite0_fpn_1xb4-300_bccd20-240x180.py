# The same on 20 training images, for 60 epochs.
_base_ = './faster-rcnn_lite0_fpn_1xb4-250_bccd40-240x180.py'

train_dataloader = dict(dataset=dict(num_samples=20))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=300, by_epoch=False),
]
train_cfg = dict(max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
