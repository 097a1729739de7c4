# A-FAN on Backbone (Table 10).
_base_ = './afan_faster-rcnn_r50-caffe-c4_1xb8-11250_voc07.py'
model = dict(roi_head=dict(afan=dict(num_strengths=0)))
