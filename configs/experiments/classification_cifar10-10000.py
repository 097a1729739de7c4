# Tables 2, 4, 9 and 11 in small: ResNet-20s from scratch on 10,000 CIFAR-10 images, with the
# paper's settings, its parts, and AdvProp.
base = '../resnet/resnet20s_1xb64-6e_cifar10-10000.py'
arms = dict(
    stock=dict(),
    afan=dict(config='../resnet/afan_resnet20s_1xb64-6e_cifar10-10000.py'),
    afa=dict(config='../resnet/afan_resnet20s_1xb64-6e_cifar10-10000.py'),
    gaussian=dict(of='afan'),
    control=dict(of='afan'),
    scaled=dict(of='afan'),
    advprop=dict(config='../resnet/advprop_resnet20s_1xb64-6e_cifar10-10000.py'),
)
arms['afa']['model.neck.afan.moments'] = None  # augmentation without normalisation
seeds = [1]
measures = ['stock', 'nll', 'calibration']
primary = 'accuracy/top1'
