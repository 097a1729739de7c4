# Does late joint A-FAN help a whole detector, whose backbone trains, on 20 images? With the setting
# of detection_bccd20-frozen.py, at the learning rate that detection_bccd20_tuning.py found best for
# stock. 'gain' steers the strength by its effect.
base = '../faster_rcnn/faster-rcnn_lite0_fpn_1xb4-300_bccd20-240x180.py'
_rate = {'optim_wrapper.optimizer.lr': 0.0005}
_late = dict(
    _rate, config='../faster_rcnn/afan_faster-rcnn_lite0_fpn_1xb4-300_bccd20-240x180_late.py'
)
arms = dict(
    stock=dict(_rate),
    late=_late,
    control=dict(_rate, of='late'),
    gain=dict(_late),
    longer=dict(_rate, factor=2),
    late_longer=dict(_late, factor=2),
)
for _settings in ('neck.afan', 'roi_head.afan.0', 'roi_head.afan.1'):
    arms['gain'][f'model.{_settings}.target_gain'] = 0.1
del _rate, _late, _settings
seeds = [1, 2, 3, 4, 5]
measures = ['stock', 'detection_calibration', 'per_class']
primary = 'mAP'
references = ['stock', 'control', 'longer']
