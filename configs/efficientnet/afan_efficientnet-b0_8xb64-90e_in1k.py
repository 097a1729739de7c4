# A-FAN on EfficientNet-B0, ImageNet: Table 3. The last block comes before the last convolution.
_base_ = ['./efficientnet-b0_8xb64-90e_in1k.py', '../_base_/afan.py', '../_base_/presets/paper.py']

optim_wrapper = _base_.cls_imagenet.optim_wrapper
model = dict(
    neck=dict(
        type='AFANNeckWrapper',
        base='GlobalAveragePooling',
        afan=dict(_base_.cls_imagenet.neck, site='backbone.layers.5'),
    )
)
