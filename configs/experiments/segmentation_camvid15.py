# Does late joint A-FAN help a segmentor that has 15 images to learn from?
base = '../deeplabv3plus/deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120.py'
arms = dict(
    stock=dict(),
    late=dict(
        config='../deeplabv3plus/afan_deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120_late.py'
    ),
    control=dict(of='late'),
)
seeds = [1, 2, 3, 4, 5]
primary = 'mIoU'
references = ['stock', 'control']
