# Does late joint A-FAN help a detector's neck and heads on frozen features of 20 images? With the
# setting and the size of classification_cifar10-500.py; noise and sharpness-aware minimisation have
# the sizes that detection_bccd20-frozen_tuning.py found best.
base = '../faster_rcnn/faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
_late = '../faster_rcnn/afan_faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180_late.py'
arms = dict(
    stock=dict(),
    late=dict(config=_late),
    control=dict(of='late'),
    longer=dict(factor=2),
    noise=dict(config=_late),
    sam=dict(optim_wrapper=dict(type='SAMOptimWrapper', rho=0.02)),
)
for _settings in ('neck.afan', 'roi_head.afan.0', 'roi_head.afan.1'):
    arms['noise'][f'model.{_settings}.perturbation'] = 'gaussian'
    arms['noise'][f'model.{_settings}.epsilon'] = 1.0
del _settings, _late
seeds = [1, 2, 3, 4, 5]
measures = ['stock', 'detection_calibration']
primary = 'mAP'
references = ['stock', 'control', 'longer', 'noise', 'sam']
