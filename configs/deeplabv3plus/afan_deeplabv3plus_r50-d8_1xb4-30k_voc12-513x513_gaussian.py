# Random Noise + AFN (Table 11): noise of standard deviation alpha in place of the adversarial
# perturbation.
_base_ = './afan_deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py'
model = dict(
    neck=dict(afan=dict(perturbation='gaussian')),
    decode_head=dict(afan=dict(perturbation='gaussian')),
)
