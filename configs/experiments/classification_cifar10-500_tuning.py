# Which setting of each kind helps a classifier that has 500 images to learn from most? Two seeds
# that the study does not use, on the images that it does not report: run with --half selection.
base = '../efficientnet_lite0/efficientnet-lite0_1xb64-156_cifar10-500-64x64.py'
_late = '../efficientnet_lite0/afan_efficientnet-lite0_1xb64-156_cifar10-500-64x64_late.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
seeds = [11, 12]
primary = 'accuracy/top1'
references = ['stock']

_epsilon = ', '.join(f'model.neck.afan.{site}.epsilon' for site in range(3))
_gaussian = {f'model.neck.afan.{site}.perturbation': 'gaussian' for site in range(3)}
arms = dict(
    stock=dict(),
    rate=dict(),
    decay=dict(),
    longer=dict(factor=2),
    late=dict(config=_late),
    noise=dict(config=_late, **_gaussian),
    sam=dict(optim_wrapper=dict(type='SAMOptimWrapper')),
)
grid = dict(
    rate={'optim_wrapper.optimizer.lr': [0.01, 0.1]},  # stock's: 0.03
    decay={'optim_wrapper.optimizer.weight_decay': [0.05]},  # stock's: 0.0001
    late={_epsilon: [0.1, 0.2]},
    noise={_epsilon: [0.3, 1.0]},
    sam={'optim_wrapper.rho': [0.05, 0.2]},
)
del _epsilon, _gaussian, _late
