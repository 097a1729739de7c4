# A-FAN on the backbone's last layer and on the last RoI vector; epsilon and strengths of Sec. 5.
_base_ = './faster-rcnn_lite0_fpn_1xb4-250_bccd40-240x180.py'

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = dict(type='AFANOptimWrapper')
afan = dict(epsilon=0.3 / 255, num_strengths=5)
model = dict(
    neck=dict(type='AFANNeckWrapper', base='FPN', afan=afan),
    roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=afan),
)
