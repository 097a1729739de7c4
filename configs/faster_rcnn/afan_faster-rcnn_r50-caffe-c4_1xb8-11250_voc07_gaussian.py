# Random Noise + AFN (Table 11): noise of standard deviation alpha in place of the adversarial
# perturbation.
_base_ = './afan_faster-rcnn_r50-caffe-c4_1xb8-11250_voc07.py'
model = dict(
    neck=dict(afan=dict(perturbation='gaussian')), roi_head=dict(afan=dict(perturbation='gaussian'))
)
