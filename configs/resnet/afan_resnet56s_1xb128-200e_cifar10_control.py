# Not in the paper: the same passes unperturbed, which tells the perturbation's effect from that of
# the added gradient.
_base_ = './afan_resnet56s_1xb128-200e_cifar10.py'
model = dict(neck=dict(afan=dict(perturbation='none')))
