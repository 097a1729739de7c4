# CIFAR-100: nine tenths of the training images, drawn at random, to train on, one tenth to
# choose the checkpoint by, and the test images to report on (Sec. 4). One draw for all runs.
_base_ = 'mmpretrain::_base_/datasets/cifar100_bs16.py'

split = dict(_delete_=True, type='KFoldDataset', fold=0, num_splits=10, seed=0)
train_dataloader = dict(
    batch_size=128, dataset=dict(dataset=_base_.train_dataloader.dataset, **split)
)
test_dataloader = _base_.val_dataloader
val_dataloader = dict(
    batch_size=128,
    dataset=dict(
        dataset=dict(_base_.train_dataloader.dataset, pipeline=_base_.test_pipeline),
        test_mode=True,
        **split,
    ),
)
