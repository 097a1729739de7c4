# A-FAN at late sites, perturbed together: the last two stages and the pooled vector.
_base_ = [
    './efficientnet-lite0_1xb64-156_cifar10-500-64x64.py',
    '../_base_/presets/recommended.py',
]

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = _base_.everywhere.optim_wrapper
model = dict(
    neck=dict(
        type='AFANNeckWrapper',
        base='GlobalAveragePooling',
        afan=[
            dict(name='stage6', site='backbone.timm_model.blocks.5', **_base_.late),
            dict(name='stage7', site='backbone.timm_model.blocks.6', **_base_.late),
            dict(name='vector', site='output', **_base_.late),
        ],
    )
)
