# A-FAN on the backbone's last layer and on the last RoI vector; epsilon of Sec. 5, and two of its
# five strengths to save time.
_base_ = ['./faster-rcnn_r18_fpn_1xb4-280_digits.py', '../_base_/afan.py']

optim_wrapper = dict(type='AFANOptimWrapper')
afan = dict(epsilon=0.3 / 255, num_strengths=2)
model = dict(
    neck=dict(type='AFANNeckWrapper', base='FPN', afan=afan),
    roi_head=dict(type='AFANRoIHead', base='StandardRoIHead', afan=afan),
)
