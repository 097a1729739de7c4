# Random Noise + AFN (Table 11): noise of standard deviation alpha in place of the adversarial
# perturbation.
_base_ = './afan_resnet56s_1xb128-200e_cifar10.py'
model = dict(neck=dict(afan=dict(perturbation='gaussian')))
