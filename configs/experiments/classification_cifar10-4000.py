# classification_cifar10-500.py with eight times the images, and 20 epochs as there.
_base_ = './classification_cifar10-500.py'
common = {
    'train_dataloader.dataset.num_samples': 4000,
    'train_cfg.max_iters': 1250,
    'train_cfg.val_interval': 1250,
    'param_scheduler.1.end': 1250,
    'default_hooks.checkpoint.interval': 1250,
}
