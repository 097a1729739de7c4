# segmentation_camvid30-frozen.py, at stock's best learning rate, with a strength that is steered by
# its effect: at one rise of the loss, do the paper's moments add to the perturbation of a dense
# feature, or take from it? Two seeds that the study does not use, on the images that it does not
# report: run with --half selection.
base = '../deeplabv3plus/deeplabv3plus_lite0-frozen_1xb4-1600_camvid30-160x120.py'
seeds = [11, 12]
measures = ['stock', 'nll', 'calibration']
primary = 'mIoU'
_late = '../deeplabv3plus/afan_deeplabv3plus_lite0-frozen_1xb4-1600_camvid30-160x120_late.py'
_rate = {'optim_wrapper.optimizer.lr': 1.0}


def _arm(**settings):
    parts = ('neck', 'decode_head')
    sites = {f'model.{part}.afan.{key}': settings[key] for part in parts for key in settings}
    return dict(config=_late, **_rate, **sites)


arms = {
    'stock': _rate,
    'late': _arm(),
    'gain': _arm(target_gain=0.1),
    'batch': _arm(target_gain=0.1, moments='batch'),
    'instance': _arm(target_gain=0.1, moments='instance'),
}
references = ['stock', 'gain']
del _late, _rate
