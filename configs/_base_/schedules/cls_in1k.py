# Sec. 4, ImageNet: SGD, batches of 512, 90 epochs, a tenth of the rate after 30 and after 60. The
# rate is not said; it is that of "the official setting in Pytorch repository", 0.1. The checkpoint
# that is best on the validation images is the one to test ("early stopping").
_base_ = './cls_cifar.py'

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60], gamma=0.1)]
train_cfg = dict(max_epochs=90)
