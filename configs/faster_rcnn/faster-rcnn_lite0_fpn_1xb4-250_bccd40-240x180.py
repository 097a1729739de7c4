# The same on 40 training images, which the run's seed draws.
_base_ = './faster-rcnn_lite0_fpn_1xb4-250_bccd-240x180.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True, type='SeededSubset', num_samples=40, dataset=_base_.train_dataloader.dataset
    )
)
