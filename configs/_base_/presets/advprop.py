# AdvProp (Xie et al. 2020, "Adversarial Examples Improve Image Recognition"), the method beside
# A-FAN in Table 4: the image is perturbed, and the passes on it have batch norms of their own. The
# entries have the names of those in paper.py; a config takes `_base_.<entry>.image` for AFANModel.
#
# Theirs: an adversarial image for each clean one, both losses with weight 1; PGD in the linf norm
# through the auxiliary norms, steps of 1/255, radius 4/255 with 5 steps or, for small networks,
# 1/255 with 1. Footnote 3 of the A-FAN paper takes 5 steps for CIFAR-10 and 1 for ImageNet.
#
# Chosen here:
# - a random start in the ball, so that every step's gradient is one through the auxiliary norms;
# - segmentation and detection, for which neither paper has a figure: as for ImageNet;
# - the learning rate and its schedule: the baseline's.
# Where the host keeps its norms in evaluation mode (detectors), the auxiliary ones differ in their
# affine parameters alone.
image = dict(
    epsilon_unit='pixel',
    norm='linf',
    random_start=True,
    num_strengths=1,
    strengths='linspace',  # the one strength is the full one
    moments=None,
    adv_weight=1.0,
    detach=True,  # before the image nothing learns
    bn_stats='auxiliary',
)
strong = dict(
    image=dict(image, epsilon=4 / 255, step_size=1 / 255, num_steps=5),
    optim_wrapper=dict(type='AFANOptimWrapper', clean_weight=1.0),
)
weak = dict(strong, image=dict(image, epsilon=1 / 255, step_size=1 / 255, num_steps=1))

seg_voc07 = weak
seg_voc12 = weak
seg_cityscapes = weak
det_voc07 = weak
det_coco = weak
cls_cifar = strong
cls_imagenet = weak
