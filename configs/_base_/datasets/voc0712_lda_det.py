# VOC2007+2012 with the learned data augmentation of Zoph et al. (2019): their policy v0, the one of
# their paper's results, as far as mmdet's transforms go. Different from theirs:
# - TranslateY_Only_BBoxes (probability 0.2 in the second sub-policy, 0.6 in the fourth) moves the
# inside of single boxes; nothing in mmdet does, and it is left out;
# - mmdet takes a translation as a share of the image: their 250 pixels at most are half of VOC's
# 500; a shear in degrees: their 0.3 at most is the tangent of 16.7. It rounds each magnitude to one
# decimal;
# - their cutout is centred anywhere, mmdet's CutOut has its corner anywhere; both cut at the
# image's edge. The magnitudes are for images as stored, so the policy comes before Resize.
_base_ = './voc0712_det.py'

policy = [
    [
        dict(type='TranslateX', prob=0.6, level=4, max_mag=0.5),
        dict(type='Equalize', prob=0.8, level=10),
    ],
    [
        dict(
            type='RandomApply',
            prob=0.8,
            transforms=[
                dict(type='CutOut', n_holes=1, cutout_shape=(160, 160), fill_in=(128, 128, 128))
            ],
        )
    ],
    [
        dict(type='Sharpness', prob=0.0, level=8),
        dict(type='ShearX', prob=0.4, level=0, max_mag=16.7),
    ],
    [dict(type='ShearY', prob=1.0, level=2, max_mag=16.7)],
    [dict(type='Rotate', prob=0.6, level=10), dict(type='Color', prob=1.0, level=6)],
]
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args={{_base_.backend_args}}),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='AutoAugment', policies=policy),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),  # a box may have left the image
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(_base_.voc07, pipeline=train_pipeline),
            dict(_base_.voc12, pipeline=train_pipeline),
        ]
    )
)
