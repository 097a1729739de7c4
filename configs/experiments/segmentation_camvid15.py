# Does late joint A-FAN help a segmentor that has 15 images to learn from? More than noise, and than
# sharpness-aware minimisation? All with the settings of classification_cifar10-500.py.
base = '../deeplabv3plus/deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
arms = dict(
    stock=dict(),
    late=dict(
        config='../deeplabv3plus/afan_deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120_late.py'
    ),
    control=dict(of='late'),
)
seeds = [1, 2, 3, 4, 5]
measures = ['stock', 'nll', 'calibration']
primary = 'mIoU'
references = ['stock', 'control']
keep_checkpoints = True
