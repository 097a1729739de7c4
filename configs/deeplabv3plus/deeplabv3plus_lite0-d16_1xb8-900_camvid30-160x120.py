# The same on 30 training images, which the run's seed draws.
_base_ = './deeplabv3plus_lite0-d16_1xb8-900_camvid-160x120.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True, type='SeededSubset', num_samples=30, dataset=_base_.train_dataloader.dataset
    )
)
