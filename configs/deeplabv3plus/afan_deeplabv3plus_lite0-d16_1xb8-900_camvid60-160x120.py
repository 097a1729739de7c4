# A-FAN on the backbone's last layer and on the input of the classifier; epsilon and strengths of
# Sec. 6.
_base_ = './deeplabv3plus_lite0-d16_1xb8-900_camvid60-160x120.py'

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = dict(type='AFANOptimWrapper')
afan = dict(epsilon=0.4 / 255, num_strengths=3)
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=afan),
    decode_head=dict(type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=afan),
)
