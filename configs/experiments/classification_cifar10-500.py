# Does late joint A-FAN help a classifier that has 500 images to learn from? More than noise, and
# than sharpness-aware minimisation, each with the setting that
# classification_cifar10-500_tuning.py found best?
base = '../efficientnet_lite0/efficientnet-lite0_1xb64-156_cifar10-500-64x64.py'
custom_imports = dict(imports=['afan_mm.experiments.sam'])
arms = dict(
    stock=dict(),
    late=dict(
        config='../efficientnet_lite0/afan_efficientnet-lite0_1xb64-156_cifar10-500-64x64_late.py'
    ),
    control=dict(of='late'),
)
seeds = [1, 2, 3, 4, 5]
measures = ['stock', 'nll', 'calibration']
primary = 'accuracy/top1'
references = ['stock', 'control']
keep_checkpoints = True
