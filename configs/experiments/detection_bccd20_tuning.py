# Which learning rate is best for a stock detector, whose backbone trains, with 20 images to learn
# from? A seed that the study does not use, on the images that it does not report: run with
# --half selection.
base = '../faster_rcnn/faster-rcnn_lite0_fpn_1xb4-300_bccd20-240x180.py'
seeds = [11]
measures = ['stock', 'detection_calibration']
primary = 'mAP'
references = ['stock']

arms = dict(stock=dict(), rate=dict())
grid = dict(rate={'optim_wrapper.optimizer.lr': [0.00025, 0.0005, 0.002]})  # stock's: 0.001
