# A-FAN on the backbone's last layer and on the input of the classifier; epsilon and strengths of
# Sec. 6.
_base_ = ['./deeplabv3plus_r18-d8_1xb4-250_camvid-240x180.py', '../_base_/afan.py']

optim_wrapper = dict(type='AFANOptimWrapper')
afan = dict(epsilon=0.4 / 255, num_strengths=3)
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=afan),
    decode_head=dict(type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=afan),
)
