# A-FAN on ResNet-18, ImageNet: Table 3.
_base_ = ['./resnet18_8xb64-90e_in1k.py', '../_base_/afan.py', '../_base_/presets/paper.py']

optim_wrapper = _base_.cls_imagenet.optim_wrapper
model = dict(
    neck=dict(type='AFANNeckWrapper', base='GlobalAveragePooling', afan=_base_.cls_imagenet.neck)
)
