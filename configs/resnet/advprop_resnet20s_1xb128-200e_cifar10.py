# AdvProp on ResNet-20s, CIFAR-10: beside Table 2.
_base_ = ['./resnet20s_1xb128-200e_cifar10.py', '../_base_/presets/advprop.py']

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.cls_cifar.optim_wrapper
model = dict(type='AFANModel', base='ImageClassifier', afan=_base_.cls_cifar.image)
