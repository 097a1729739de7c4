# Which learning rate and length is best for a stock segmentor that has 15 images to learn from?
# Seeds that the study does not use, on the images that it does not report: run with
# --half selection.
base = '../deeplabv3plus/deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120.py'
seeds = [11, 12]
primary = 'mIoU'
references = ['stock']

arms = dict(
    stock=dict(),
    rate=dict(),
    decay=dict(),
    longer=dict(factor=2),
)
grid = dict(
    rate={'optim_wrapper.optimizer.lr': [0.1, 0.2, 0.35, 0.7, 1.4]},  # stock's: 0.05
    decay={'optim_wrapper.optimizer.weight_decay': [0.001]},  # stock's: 0.0001
)
