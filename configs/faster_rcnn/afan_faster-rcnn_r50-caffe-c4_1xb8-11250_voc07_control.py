# Not in the paper: the same passes unperturbed, which tells the perturbation's effect from that of
# the added gradient.
_base_ = './afan_faster-rcnn_r50-caffe-c4_1xb8-11250_voc07.py'
model = dict(
    neck=dict(afan=dict(perturbation='none')), roi_head=dict(afan=dict(perturbation='none'))
)
