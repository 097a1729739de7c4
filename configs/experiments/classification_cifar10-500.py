# Does late joint A-FAN help a classifier that has 500 images to learn from? More than noise, and
# than sharpness-aware minimisation, each with the setting that
# classification_cifar10-500_tuning.py found best?
base = '../efficientnet_lite0/efficientnet-lite0_1xb64-156_cifar10-500-64x64.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
_late = '../efficientnet_lite0/afan_efficientnet-lite0_1xb64-156_cifar10-500-64x64_late.py'
arms = dict(
    stock=dict(),
    late=dict(config=_late),
    control=dict(of='late'),
    longer=dict(factor=2),
    late_longer=dict(config=_late, factor=2),
    noise=dict(config=_late),
    sam=dict(optim_wrapper=dict(type='SAMOptimWrapper', rho=0.2)),
    steps_3=dict(config=_late),
    gain=dict(config=_late),
)
for _site in range(3):
    arms['steps_3'][f'model.neck.afan.{_site}.num_steps'] = 3
    arms['gain'][f'model.neck.afan.{_site}.target_gain'] = 1.6  # classification_cifar10-500_gain.py
    arms['noise'][f'model.neck.afan.{_site}.perturbation'] = 'gaussian'
    arms['noise'][f'model.neck.afan.{_site}.epsilon'] = 1.0
del _site, _late
seeds = [1, 2, 3, 4, 5]
measures = ['stock', 'nll', 'calibration']
primary = 'accuracy/top1'
references = ['stock', 'control', 'longer', 'noise', 'sam']
keep_checkpoints = True
