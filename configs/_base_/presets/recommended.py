# Late sites perturbed together, for fine-tuning where stock has had time to overfit. The same for
# every task; the entries have the names of those in paper.py and released.py, so that a config
# changes its preset by the name of the file in its `_base_`.
#
# Where each value comes from (docs/study.md has the study and its figures):
# - joint, and sites as late as they come (the backbone's last stages, what the classifier reads):
#   each late site alone gains a fraction of what they gain together, and early ones less;
# - norm, norm_over, epsilon_unit: a direction of unit l2 norm, a tenth of the feature's own length
#   at each position (a pixel, a RoI, a vector), which carries over between layers and networks;
# - moments=None: normalising by batch moments takes most of so strong a perturbation away;
# - one strength, drawn for each sample: one more pass of the tail a step;
# - adv_weight and clean_weight sum to one, so that a learning rate keeps its meaning.
# What is not shown: detection, training from scratch, and data on which stock does not overfit.
late = dict(
    joint=True,
    norm='l2',
    norm_over='position',
    epsilon_unit='norm',
    epsilon=0.1,
    moments=None,
    num_strengths=1,
    estimator='per_sample',
    adv_weight=0.5,
)
everywhere = dict(
    neck=late,
    head=late,
    optim_wrapper=dict(type='AFANOptimWrapper', clean_weight='complement'),
)

seg_voc07 = everywhere
seg_voc12 = everywhere
seg_cityscapes = everywhere
det_voc07 = everywhere
det_coco = everywhere
cls_cifar = everywhere
cls_imagenet = everywhere
