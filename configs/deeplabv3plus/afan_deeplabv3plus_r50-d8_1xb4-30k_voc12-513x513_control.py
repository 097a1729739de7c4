# Not in the paper: the same passes unperturbed, which tells the perturbation's effect from that of
# the added gradient.
_base_ = './afan_deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py'
model = dict(
    neck=dict(afan=dict(perturbation='none')), decode_head=dict(afan=dict(perturbation='none'))
)
