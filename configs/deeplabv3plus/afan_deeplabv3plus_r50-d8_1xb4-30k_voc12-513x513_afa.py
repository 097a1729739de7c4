# + AFA (Table 10): augmentation without normalisation, the adversarial passes train on f_adv
# itself.
_base_ = './afan_deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py'
model = dict(neck=dict(afan=dict(moments=None)), decode_head=dict(afan=dict(moments=None)))
