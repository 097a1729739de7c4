# Stock DeepLabV3+ on EfficientNet-Lite0 from ImageNet, fine-tuned on CamVid at a third of its size.
# The stem and the first three stages stay as they were. Weights: tools/model_converters/
# efficientnet_lite0.py.
_base_ = './deeplabv3plus_r18-d8_1xb4-250_camvid-240x180.py'
# Frozen stages and the seeded subset only; nothing of A-FAN is in this config.
custom_imports = dict(imports=['afan_mm'], allow_failed_imports=False)

data_preprocessor = dict(size=(120, 160), mean=[127, 127, 127], std=[128, 128, 128])
model = dict(
    data_preprocessor=data_preprocessor,
    backbone=dict(
        _delete_=True,
        type='PartlyFrozen',
        base='mmseg.TIMMBackbone',
        channels_last=True,
        frozen=[
            'timm_model.conv_stem',
            'timm_model.bn1',
            'timm_model.blocks.0',
            'timm_model.blocks.1',
            'timm_model.blocks.2',
        ],
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        output_stride=16,
        out_indices=(1, 4),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/pretrained/efficientnet_lite0.pth',
            prefix='backbone',
        ),
    ),
    decode_head=dict(
        in_index=1,
        in_channels=320,
        channels=64,
        c1_in_channels=24,
        dropout_ratio=0.1,
    ),
    auxiliary_head=None,
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(160, 120), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 120), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', eta_min=0, power=0.9, by_epoch=False, begin=20, end=900),
]
train_cfg = dict(max_iters=900, val_interval=900)
default_hooks = dict(checkpoint=dict(interval=900))
