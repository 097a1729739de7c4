# AdvProp on ResNet-18, CIFAR-10: Table 4.
_base_ = ['./resnet18_1xb128-200e_cifar10.py', '../_base_/afan.py', '../_base_/presets/advprop.py']

optim_wrapper = _base_.cls_cifar.optim_wrapper
model = dict(type='AFANModel', base='ImageClassifier', afan=_base_.cls_cifar.image)
