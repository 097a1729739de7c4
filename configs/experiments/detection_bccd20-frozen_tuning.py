# Which learning rate and length is best for a stock detector's neck and heads on frozen features of
# 20 images, and for late joint A-FAN? A seed that the study does not use, on the images that it
# does not report: run with --half selection.
base = '../faster_rcnn/faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180.py'
_late = '../faster_rcnn/afan_faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180_late.py'
seeds = [11, 12]
measures = ['stock', 'detection_calibration']
primary = 'mAP'
references = ['stock']

arms = dict(
    stock=dict(),
    rate=dict(),
    decay=dict(),
    longer=dict(factor=2),
    shorter=dict(reference='longer', factor=1 / 2),
    late=dict(config=_late),
)
grid = dict(
    rate={'optim_wrapper.optimizer.lr': [0.0005, 0.002, 0.004]},  # stock's: 0.001
    decay={'optim_wrapper.optimizer.weight_decay': [0.1]},  # stock's: 0.01
)
del _late
