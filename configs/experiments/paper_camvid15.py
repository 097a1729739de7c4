# Do the paper's settings (Sec. 6) help a segmentor that has 15 images to learn from? More than the
# same passes without perturbation, and than stock at a learning rate as much larger as their loss?
base = '../deeplabv3plus/deeplabv3plus_lite0-d16_1xb4-400_camvid15-160x120.py'
_afan = dict(epsilon=0.4 / 255, num_strengths=3)
arms = dict(
    stock=dict(),
    paper=dict(
        custom_hooks=[dict(type='AFANHook', interval=50)],
        optim_wrapper=dict(type='AFANOptimWrapper'),
        model=dict(
            neck=dict(type='AFANNeckWrapper', base=None, afan=_afan),
            decode_head=dict(type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=_afan),
        ),
    ),
    control=dict(of='paper'),
    scaled=dict(of='paper'),
)
del _afan
seeds = [1, 2, 3]
measures = ['stock', 'nll', 'calibration']
primary = 'mIoU'
references = ['stock', 'control', 'scaled']
