# classification_cifar10-500.py with half the images, and 20 epochs as there.
_base_ = './classification_cifar10-500.py'
common = {
    'train_dataloader.dataset.num_samples': 250,
    'train_cfg.max_iters': 78,
    'train_cfg.val_interval': 78,
    'param_scheduler.1.end': 78,
    'default_hooks.checkpoint.interval': 78,
}
