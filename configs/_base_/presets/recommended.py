# Late sites perturbed together, for fine-tuning on few images. The same for every task; the entries
# have the names of those in paper.py and released.py, so that a config changes its preset by the
# name of the file in its `_base_`. `afan convert CONFIG` takes this preset, and finds late sites in
# a model.
#
# Where each value comes from: docs/study.md has what ten seeds show of the whole. Single
# values come from small pilots of one to three seeds, in which
# - late sites perturbed together gained more than any of them alone, or than early ones;
# - a tenth of the feature's own length in the l2 norm did so on two tasks: of each sample's in
#   classification, of each position's in segmentation;
# - moments of the batch took most of the perturbation away again, and in the study, at the same
#   rise of the loss, all that it had given (five seeds), hence moments=None;
# - one strength, drawn for each sample, was enough: one more pass of the tail a step.
# The passes repeat the clean pass's random draws, so that unperturbed ones would be stock training.
# adv_weight and clean_weight sum to one, so that a learning rate keeps its meaning.
# Not shown: that it helps in training from scratch, with more than 4,000 images, and where stock
# does not overfit; there a detector's scores were worse calibrated with it. A detector whose
# backbone trains lost its hardest class on 20 images: compare with stock, class by class.
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
    draws='clean',
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
