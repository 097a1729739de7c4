# Do the paper's settings (Sec. 5) help a detector's neck and heads on frozen features of 20 images?
# More than the same passes without perturbation, and than stock at a learning rate as much larger
# as their loss?
base = '../faster_rcnn/faster-rcnn_lite0-frozen_fpn_1xb4-300_bccd20-240x180.py'
_afan = dict(epsilon=0.3 / 255, num_strengths=5)
arms = dict(
    stock=dict(),
    paper=dict(
        custom_hooks=[dict(type='AFANHook', interval=50)],
        optim_wrapper=dict(type='AFANOptimWrapper'),
        model=dict(
            neck=dict(type='AFANNeckWrapper', base='FPN', afan=_afan),
            roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=_afan),
        ),
    ),
    control=dict(of='paper'),
    scaled=dict(of='paper'),
)
del _afan
seeds = [1, 2, 3]
measures = ['stock', 'detection_calibration']
primary = 'mAP'
references = ['stock', 'control', 'scaled']
