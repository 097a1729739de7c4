# The same on 15 training images, for 107 epochs.
_base_ = './deeplabv3plus_lite0-d16_1xb8-900_camvid30-160x120.py'

train_dataloader = dict(batch_size=4, dataset=dict(num_samples=15))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', eta_min=0, power=0.9, by_epoch=False, begin=20, end=400),
]
train_cfg = dict(max_iters=400, val_interval=400)
default_hooks = dict(checkpoint=dict(interval=400))
