# A-FAN as the paper has it: Sec. 3 for the method, Sec. 4 to 6 for strengths and sites. One entry
# for each task and data set; a config takes `_base_.<entry>`. The entries of released.py have the
# same names, so to change the preset of a config, change its file's name in the config's `_base_`.
#
# Not said in the paper, chosen here:
# - whether k counts the clean feature or is shared by the two sites: k strengths at each site, the
# clean pass beside them (Eq. 6);
# - the moments' statistics: those of the batch, biased, eps 1e-5, as batch norm takes them in
# training (Sec. 3.4);
# - whether L_adv reaches the layers before the site (theta_b): it does, as Eq. 3 minimises over all
# theta;
# - the radius E of Eq. 4: the step size alpha, as Sec. 4 to 6 draw the strengths from [0, alpha],
# for PGD-5 as well;
# - lambda: 1 (Eq. 6), of the sum at each site; both sites at once are two sums, never one pass with
# both perturbations;
# - batch norm's running statistics: those of the clean pass;
# - anchors and RoIs: the backbone's passes propose and sample anew, the RoI head's take those of
# the clean pass.
segmentation = dict(
    num_steps=1,
    num_strengths=3,
    strengths='uniform',
    moments='batch',
    unbiased=False,
    adv_weight=1.0,
    detach=False,
    bn_stats='clean',
)
detection = dict(segmentation, num_strengths=5)
optim_wrapper_of_paper = dict(type='AFANOptimWrapper', clean_weight=1.0)

# Sites: the backbone's last layer, and what the decoder's last layer reads.
seg_voc07 = dict(
    neck=dict(segmentation, epsilon=1.0 / 255),
    head=dict(segmentation, epsilon=1.0 / 255),
    optim_wrapper=optim_wrapper_of_paper,
)
seg_voc12 = dict(
    neck=dict(segmentation, epsilon=0.4 / 255),
    head=dict(segmentation, epsilon=0.4 / 255),
    optim_wrapper=optim_wrapper_of_paper,
)
seg_cityscapes = dict(
    neck=dict(segmentation, epsilon=0.3 / 255),
    head=dict(segmentation, epsilon=0.3 / 255),
    optim_wrapper=optim_wrapper_of_paper,
)

# Sites: the backbone's last layer, and the last vector of a RoI.
det_voc07 = dict(
    neck=dict(detection, epsilon=0.3 / 255),
    head=dict(detection, epsilon=0.3 / 255),
    optim_wrapper=optim_wrapper_of_paper,
)
det_coco = dict(
    neck=dict(detection, epsilon=0.5 / 255),
    head=dict(detection, epsilon=0.5 / 255),
    optim_wrapper=optim_wrapper_of_paper,
)

# Site: the backbone's last block, which is its last layer but in EfficientNet. The head's entry is
# for those who ask for that site too; the paper has none in a classifier.
classification = dict(segmentation, epsilon=0.5 / 255)
cls_cifar = dict(
    neck=dict(classification, num_steps=5),
    head=dict(classification, num_steps=5),
    optim_wrapper=optim_wrapper_of_paper,
)
cls_imagenet = dict(neck=classification, head=classification, optim_wrapper=optim_wrapper_of_paper)
