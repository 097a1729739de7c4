# Does late joint A-FAN help a classifier that has 500 images to learn from?
base = '../efficientnet_lite0/efficientnet-lite0_1xb64-156_cifar10-500-64x64.py'
arms = dict(
    stock=dict(),
    late=dict(
        config='../efficientnet_lite0/afan_efficientnet-lite0_1xb64-156_cifar10-500-64x64_late.py'
    ),
    control=dict(of='late'),
)
seeds = [1, 2, 3, 4, 5]
primary = 'accuracy/top1'
references = ['stock', 'control']
