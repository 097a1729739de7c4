# A-FAN on the backbone's last layer and on the input of the classifier; epsilon of Sec. 6, and one
# of its three strengths to save time.
_base_ = ['./deeplabv3plus_r18-d8_1xb8-300_digits-96x96.py', '../_base_/afan.py']

optim_wrapper = dict(type='AFANOptimWrapper')
afan = dict(epsilon=0.4 / 255, num_strengths=1)
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=afan),
    decode_head=dict(type='AFANDecodeHead', base='DepthwiseSeparableASPPHead', afan=afan),
)
