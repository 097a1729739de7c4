# Does late joint A-FAN help a segmentation head on frozen features of 30 images? More than noise,
# and than sharpness-aware minimisation? All with the sizes of classification_cifar10-500.py;
# segmentation_camvid30-frozen_tuning.py compares them with others. And at the learning rate that it
# found best for stock, 1, and at 0.3?
base = '../deeplabv3plus/deeplabv3plus_lite0-frozen_1xb4-1600_camvid30-160x120.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
_late = '../deeplabv3plus/afan_deeplabv3plus_lite0-frozen_1xb4-1600_camvid30-160x120_late.py'
arms = dict(
    stock=dict(),
    late=dict(config=_late),
    control=dict(of='late'),
    longer=dict(factor=2),
    noise=dict(config=_late),
    sam=dict(optim_wrapper=dict(type='SAMOptimWrapper', rho=0.2)),
)
for _part in ('neck', 'decode_head'):
    arms['noise'][f'model.{_part}.afan.perturbation'] = 'gaussian'
    arms['noise'][f'model.{_part}.afan.epsilon'] = 1.0
for _rate in (0.3, 1.0):  # stock's: 0.05
    for _arm in ('stock', 'late', 'noise', 'sam'):
        arms[f'{_arm}_lr_{_rate:g}'] = dict(arms[_arm], **{'optim_wrapper.optimizer.lr': _rate})
    arms[f'longer_lr_{_rate:g}'] = dict(
        reference='longer', factor=2, **{'optim_wrapper.optimizer.lr': _rate}
    )
    arms[f'control_lr_{_rate:g}'] = dict(reference='control', of=f'late_lr_{_rate:g}')
    for _arm in ('late', 'noise'):  # own masks in the adversarial pass, as docs/study.md has them
        _own = {f'model.{_part}.afan.draws': 'own' for _part in ('neck', 'decode_head')}
        arms[f'own_{_arm}_lr_{_rate:g}'] = dict(arms[f'{_arm}_lr_{_rate:g}'], **_own)
    _of = f'own_late_lr_{_rate:g}'
    arms[f'own_control_lr_{_rate:g}'] = dict(reference='control', of=_of)
del _late, _part, _rate, _arm, _own, _of
seeds = [1, 2, 3, 4, 5]
measures = ['stock', 'nll', 'calibration']
primary = 'mIoU'
references = ['stock', 'control', 'longer', 'noise', 'sam', 'stock_lr_0.3']
references += ['stock_lr_1', 'noise_lr_1', 'own_noise_lr_1', 'sam_lr_1']
keep_checkpoints = True
