# Which setting of each kind helps a segmentation head on frozen features of 30 images most? Seeds
# that the study does not use, on the images that it does not report: run with --half selection.
base = '../deeplabv3plus/deeplabv3plus_lite0-frozen_1xb4-1600_camvid30-160x120.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
_late = '../deeplabv3plus/afan_deeplabv3plus_lite0-frozen_1xb4-1600_camvid30-160x120_late.py'
seeds = [11, 12]
primary = 'mIoU'
references = ['stock']

_parts = ('neck', 'decode_head')
_epsilon = ', '.join(f'model.{part}.afan.epsilon' for part in _parts)
_gaussian = {f'model.{part}.afan.perturbation': 'gaussian' for part in _parts}
arms = dict(
    stock=dict(),
    rate=dict(),
    decay=dict(),
    longer=dict(factor=2),
    shorter=dict(reference='longer', factor=1 / 3),
    late=dict(config=_late),
    noise=dict(config=_late, **_gaussian),
    sam=dict(optim_wrapper=dict(type='SAMOptimWrapper')),
)
grid = dict(
    rate={'optim_wrapper.optimizer.lr': [0.03, 0.1, 0.3, 1.0, 3.0]},  # stock's: 0.05
    decay={'optim_wrapper.optimizer.weight_decay': [0.001]},  # stock's: 0.0001
    late={_epsilon: [0.1, 0.3]},
    noise={_epsilon: [0.3, 1.0]},
    sam={'optim_wrapper.rho': [0.05, 0.2]},
)
del _parts, _epsilon, _gaussian, _late
