# Stock Faster R-CNN on EfficientNet-Lite0 from ImageNet, fine-tuned on BCCD, blood cells at three
# eighths of their size. The stem and the first two stages stay as they were, and so do all batch
# norms. Weights: tools/model_converters/efficientnet_lite0.py.
_base_ = './faster-rcnn_r18_fpn_1xb4-250_bccd-240x180.py'
# Frozen stages and the seeded subset only; nothing of A-FAN is in this config.
custom_imports = dict(imports=['afan_mm'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),
    backbone=dict(
        _delete_=True,
        type='PartlyFrozen',
        base='mmpretrain.TIMMBackbone',
        frozen=[
            'timm_model.conv_stem',
            'timm_model.bn1',
            'timm_model.blocks.0',
            'timm_model.blocks.1',
        ],
        frozen_norms=True,
        model_name='tf_efficientnet_lite0',
        features_only=True,
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/pretrained/efficientnet_lite0.pth',
            prefix='backbone',
        ),
    ),
    neck=dict(in_channels=[24, 40, 112, 320]),
)
# Two boxes of BCCD have no area, and their regression targets are not finite.
train_dataloader = dict(dataset=dict(filter_cfg=dict(bbox_min_size=1)))
