# detection_bccd20-frozen.py with twice the images, and 60 epochs as there.
_base_ = './detection_bccd20-frozen.py'
common = {
    'train_dataloader.dataset.num_samples': 40,
    'train_cfg.max_iters': 600,
    'train_cfg.val_interval': 600,
    'param_scheduler.1.end': 600,
    'default_hooks.checkpoint.interval': 600,
}
