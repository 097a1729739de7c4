# AdvProp on EfficientNet-B0, ImageNet, with batches of 256: Table 4.
_base_ = [
    './efficientnet-b0_2xb128-90e_in1k.py',
    '../_base_/afan.py',
    '../_base_/presets/advprop.py',
]

optim_wrapper = _base_.cls_imagenet.optim_wrapper
model = dict(type='AFANModel', base='ImageClassifier', afan=_base_.cls_imagenet.image)
