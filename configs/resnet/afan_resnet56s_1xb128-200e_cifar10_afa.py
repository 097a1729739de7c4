# + AFA (Table 9): augmentation without normalisation, the adversarial passes train on f_adv itself.
_base_ = './afan_resnet56s_1xb128-200e_cifar10.py'
model = dict(neck=dict(afan=dict(moments=None)))
