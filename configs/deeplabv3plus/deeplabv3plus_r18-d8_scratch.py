# Stock DeepLabV3+ with three stages of a half-width ResNet-18, trained from scratch: what a CPU can
# do in minutes.
_base_ = 'mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py'

norm_cfg = dict(type='BN')
model = dict(
    pretrained=None,
    backbone=dict(
        stem_channels=32,
        base_channels=32,
        num_stages=3,
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        out_indices=(0, 1, 2),
        zero_init_residual=False,
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        in_index=2,
        in_channels=128,
        channels=96,
        dilations=(1, 2, 3, 4),
        c1_in_channels=32,
        c1_channels=32,
        dropout_ratio=0,
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(in_index=1, in_channels=64, channels=32, norm_cfg=norm_cfg),
)

optimizer = dict(lr=0.05, weight_decay=1e-4)
optim_wrapper = dict(optimizer=optimizer)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
randomness = dict(seed=0)
