# A-FAN on the backbone's last block, with the strengths of Sec. 4 (PGD-5 of 0.5/255, three
# strengths).
_base_ = './efficientnet-lite0_1xb64-156_cifar10-500-64x64.py'

custom_hooks = [dict(type='AFANHook', interval=50)]
optim_wrapper = dict(type='AFANOptimWrapper')
model = dict(
    neck=dict(
        type='AFANNeckWrapper',
        base='GlobalAveragePooling',
        afan=dict(
            site='backbone.timm_model.blocks.6',
            epsilon=0.5 / 255,
            num_steps=5,
            num_strengths=3,
        ),
    )
)
