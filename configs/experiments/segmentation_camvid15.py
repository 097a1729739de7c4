# Does late joint A-FAN help a segmentor that has 15 images to learn from? More than noise, and than
# sharpness-aware minimisation? All with the settings of classification_cifar10-500.py. The head has
# dropout: 'own_draws' has other masks in the adversarial pass than in the clean one, the other arms
# the same. And at the learning rate that segmentation_camvid15_tuning.py found best for stock, 0.7?
base = '../deeplabv3plus/deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
_late = '../deeplabv3plus/afan_deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120_late.py'
arms = dict(
    stock=dict(),
    late=dict(config=_late),
    control=dict(of='late'),
    own_draws=dict(config=_late),
    noise=dict(config=_late),
    sam=dict(optim_wrapper=dict(type='SAMOptimWrapper', rho=0.2)),
)
for _part in ('neck', 'decode_head'):
    arms['own_draws'][f'model.{_part}.afan.draws'] = 'own'
    arms['noise'][f'model.{_part}.afan.perturbation'] = 'gaussian'
    arms['noise'][f'model.{_part}.afan.epsilon'] = 1.0
for _arm in ('stock', 'late', 'noise', 'sam'):
    arms[f'{_arm}_lr_0.7'] = dict(arms[_arm], **{'optim_wrapper.optimizer.lr': 0.7})
arms['control_lr_0.7'] = dict(reference='control', of='late_lr_0.7')
arms['longer_lr_0.7'] = dict(arms['stock_lr_0.7'], reference='longer', factor=2)
arms['late_longer_lr_0.7'] = dict(arms['late_lr_0.7'], factor=2)
del _part, _arm, _late
seeds = [1, 2, 3, 4, 5]
measures = ['stock', 'nll', 'calibration']
primary = 'mIoU'
references = ['stock', 'control', 'noise', 'sam']
references += ['stock_lr_0.7', 'control_lr_0.7', 'longer_lr_0.7', 'noise_lr_0.7', 'sam_lr_0.7']
keep_checkpoints = True
