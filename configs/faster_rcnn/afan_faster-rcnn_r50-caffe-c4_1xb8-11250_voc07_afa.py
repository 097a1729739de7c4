# + AFA (Table 10): augmentation without normalisation, the adversarial passes train on f_adv
# itself.
_base_ = './afan_faster-rcnn_r50-caffe-c4_1xb8-11250_voc07.py'
model = dict(neck=dict(afan=dict(moments=None)), roi_head=dict(afan=dict(moments=None)))
