# classification_cifar10-500.py with twice the images, and 20 epochs as there. Measured on perturbed
# and on corrupted images, too.
_base_ = './classification_cifar10-500.py'
common = {
    'train_dataloader.dataset.num_samples': 1000,
    'train_cfg.max_iters': 312,
    'train_cfg.val_interval': 312,
    'param_scheduler.1.end': 312,
    'default_hooks.checkpoint.interval': 312,
}
measures = [
    'stock',
    'nll',
    'calibration',
    dict(type='robust', epsilon='1/255', step_size='0.25/255', num_images=500),
    dict(type='corruptions', num_images=300),
]
