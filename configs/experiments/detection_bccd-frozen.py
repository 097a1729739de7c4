# detection_bccd20-frozen.py with all 205 images, for 24 epochs.
_base_ = './detection_bccd20-frozen.py'
common = {
    'train_dataloader.dataset.num_samples': 205,
    'train_cfg.max_iters': 1230,
    'train_cfg.val_interval': 1230,
    'param_scheduler.1.end': 1230,
    'default_hooks.checkpoint.interval': 1230,
}
