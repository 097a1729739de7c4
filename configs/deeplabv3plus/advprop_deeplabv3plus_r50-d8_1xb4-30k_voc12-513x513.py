# AdvProp on Pascal VOC2012: beside Table 8.
_base_ = [
    './deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513.py',
    '../_base_/afan.py',
    '../_base_/presets/advprop.py',
]

optim_wrapper = _base_.seg_voc12.optim_wrapper
model = dict(type='AFANModel', base='EncoderDecoder', afan=_base_.seg_voc12.image)
