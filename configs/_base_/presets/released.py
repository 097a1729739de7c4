# A-FAN as the released code (VITA-Group/CV_A-FAN, commit 4a3b389) runs it. The entries have the
# names of those in paper.py.
#
# It has three to six settings called final for each data set, and nothing says which of them gave a
# row of the paper. Taken here is the first; on VOC2007 segmentation the first that perturbs the
# ASPP's output.
#
# Not offered, or different:
# - its RoI loss (L5) adds the RPN's losses of a clean pass with weight 0.1: here the clean RPN
# losses keep the clean pass's weight alone;
# - the uniform noise of its detection setting 4 (0.003, not divided by 255), and the noise option
# of segmentation;
# - its missing projection: with one step from zero there is nothing to project;
# - its attack on the RPN, whose update is commented out;
# - its random start (off in every script), and `--adv_loss_weight_sd` of segmentation, which names
# the run and nothing else;
# - 'concat', the low-level feature beside the ASPP's output before the decoder's convolutions,
# perturbed on Cityscapes: no module returns it, so the ASPP's output stands in;
# - every attack and every pass of it updates batch norm's statistics, its extra clean passes
# included: here the clean pass and the adversarial ones do (bn_stats='all');
# - a clean RoI loss whose RoIs are sampled once more for each pass: here the RoI site's pass takes
# the clean pass's RoIs.
#
# Strengths: `gamma` / 255, in equal steps from clean to adversarial, the clean end left out.
# Moments over the channels of each position, unbiased variance. Adversarial losses train the layers
# after the site alone (detach).
released = dict(
    num_steps=1,
    strengths='linspace',
    moments='positional',
    unbiased=True,
    detach=True,
    bn_stats='all',
)

# Segmentation: 0.7 L_clean + 0.1 (two strengths on the backbone) + 0.1 (one, full, on the decoder).
# The ASPP's output and the backbone are detached, the low-level feature of the skip is not
# (detach_context=False), except where it is part of the site ('concat').
seg_backbone = dict(released, num_strengths=2, adv_weight=0.1, detach_context=False)
seg_decoder = dict(released, site='bottleneck', num_strengths=1, adv_weight=0.1)
# The backbone learns with a tenth of the rate.
seg_optim_wrapper = dict(
    type='AFANOptimWrapper',
    clean_weight=0.7,
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
seg_voc07 = dict(
    neck=dict(seg_backbone, site='backbone.layer2', epsilon=0.03 / 255, normalized=(False, True)),
    head=dict(seg_decoder, epsilon=0.4 / 255, moments=None, detach_context=False),
    optim_wrapper=seg_optim_wrapper,
)
seg_voc12 = dict(
    neck=dict(seg_backbone, site='backbone.layer3', epsilon=0.01 / 255, normalized=(True, True)),
    head=dict(seg_decoder, epsilon=0.4 / 255, moments=None, detach_context=False),
    optim_wrapper=seg_optim_wrapper,
)
seg_cityscapes = dict(
    neck=dict(seg_backbone, site='backbone.layer2', epsilon=0.02 / 255, normalized=(False, True)),
    head=dict(seg_decoder, epsilon=1.5 / 255),
    optim_wrapper=seg_optim_wrapper,
)
# Its network at output stride 16, with momentum 0.01 in the backbone's batch norm and no auxiliary
# head.
seg_model = dict(
    backbone=dict(
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        norm_cfg=dict(type='SyncBN', requires_grad=True, momentum=0.01),
    ),
    decode_head=dict(dilations=(1, 6, 12, 18)),
    auxiliary_head=None,
)

# Detection: (1 - w) / 3 (L_clean + four strengths on the backbone) + w / 3 (one, full, on the RoI
# vector), w = 0.3: 1.27 in sum. Normalised are the two larger strengths. Batch norm is frozen in
# the C4 detector, so bn_stats is without effect.
det_backbone = dict(
    released,
    site='backbone.layer2',
    num_strengths=4,
    normalized=(False, False, True, True),
    adv_weight=0.7 / 3,
)
det_roi = dict(released, site='vector', num_strengths=1, moments=None, adv_weight=0.1)
det_optim_wrapper = dict(type='AFANOptimWrapper', clean_weight=0.7 / 3)
det_voc07 = dict(
    neck=dict(det_backbone, epsilon=1.0 / 255),
    head=dict(det_roi, epsilon=0.1 / 255),
    optim_wrapper=det_optim_wrapper,
)
det_coco = dict(
    neck=dict(det_backbone, epsilon=0.1 / 255),
    head=dict(det_roi, epsilon=0.1 / 255),
    optim_wrapper=det_optim_wrapper,
)

# Classification: ResNet-56s on CIFAR-10 alone. PGD-5 without projection, so up to five steps of
# 0.5 / 255, at the end of the first stage; one perturbation at full strength, not normalised; the
# mean of the clean and the adversarial loss.
cls_perturbed = dict(
    released,
    num_steps=5,
    epsilon=2.5 / 255,
    step_size=0.5 / 255,
    num_strengths=1,
    moments=None,
    unbiased=False,
    adv_weight=0.5,
)
cls_cifar = dict(
    neck=dict(cls_perturbed, site='backbone.layer1'),
    head=cls_perturbed,
    optim_wrapper=dict(type='AFANOptimWrapper', clean_weight=0.5),
)
cls_imagenet = cls_cifar
