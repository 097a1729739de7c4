# Which setting of each kind helps a detector's neck and heads on frozen features of 20 images most?
# Seeds that the study does not use, on the images that it does not report: run with
# --half selection.
base = '../faster_rcnn/faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
_late = '../faster_rcnn/afan_faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180_late.py'
seeds = [11, 12]
measures = ['stock', 'detection_calibration']
primary = 'mAP'
references = ['stock']

_sites = [f'model.{site}' for site in ('neck.afan', 'roi_head.afan.0', 'roi_head.afan.1')]
_gaussian = {f'{site}.perturbation': 'gaussian' for site in _sites}
arms = dict(
    stock=dict(),
    rate=dict(),
    decay=dict(),
    longer=dict(factor=2),
    shorter=dict(reference='longer', factor=1 / 2),
    late=dict(config=_late),
    noise=dict(config=_late, **_gaussian),
    sam=dict(optim_wrapper=dict(type='SAMOptimWrapper')),
)
grid = dict(
    rate={'optim_wrapper.optimizer.lr': [0.0005, 0.002, 0.004]},  # stock's: 0.001
    decay={'optim_wrapper.optimizer.weight_decay': [0.1]},  # stock's: 0.01
    noise={', '.join(f'{site}.epsilon' for site in _sites): [0.3, 1.0]},
    sam={'optim_wrapper.rho': [0.02, 0.05, 0.2]},
)
del _late, _sites, _gaussian
