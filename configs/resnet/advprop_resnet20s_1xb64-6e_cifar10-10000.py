# AdvProp beside it, with the attack that its authors use for small networks: one step, 1/255.
_base_ = ['./resnet20s_1xb64-6e_cifar10-10000.py', '../_base_/presets/advprop.py']

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.weak.optim_wrapper
model = dict(type='AFANModel', base='ImageClassifier', afan=_base_.weak.image)
