# AdvProp on Pascal VOC2007 with R50 FPN: beside Table 6.
_base_ = [
    './faster-rcnn_r50_fpn_1xb8-11250_voc07.py',
    '../_base_/afan.py',
    '../_base_/presets/advprop.py',
]

optim_wrapper = _base_.det_voc07.optim_wrapper
model = dict(type='AFANModel', base='FasterRCNN', afan=_base_.det_voc07.image)
