# A-FAN on Decoder (Table 10).
_base_ = './afan_deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py'
model = dict(neck=dict(afan=dict(num_strengths=0)))
