"""Thin models of other families than the two of the paper, from the configs that mmdet and mmseg
install.
"""

import importlib.util
from pathlib import Path

from mmengine.config import Config

from support.tiny import NUM_CLASSES

STAGES = {256: 8, 512: 16, 1024: 32, 2048: 64}  # what the stages of the backbone give
THIN = {**STAGES, 256: 16}
NOT_IN_CONFIG = dict(
    QuasiDenseEmbedHead=dict(in_channels=16),
    FCOSHead=dict(norm_cfg=dict(type='GN', num_groups=4)),
    DeformableDETRHead=dict(embed_dims=16),
)
CLASS_WEIGHT = [*[1.0] * NUM_CLASSES, 0.1]
# Of families whose sizes are not those of a ResNet, by their folder.
SIZES = dict(
    san={
        'image_encoder': dict(embed_dims=16, num_layers=3, num_heads=2, out_indices=(0, 1, 2)),
        'text_encoder': dict(
            dataset_name=None,
            vocabulary=[*'abcde'],
            templates=['a {}'],
            embed_dims=16,
            num_layers=1,
            num_heads=2,
            output_dims=16,
        ),
        'decode_head.deep_supervision_idxs': [3],
        'decode_head.san_cfg': dict(
            clip_channels=16, embed_dims=12, num_queries=4, fusion_index=[0, 1, 2, 3]
        ),
        'decode_head.san_cfg.cfg_encoder': dict(num_encode_layer=4, num_heads=2),
        'decode_head.san_cfg.cfg_decoder': dict(num_heads=2, embed_channels=8, mlp_channels=8),
        'decode_head.maskgen_cfg': dict(
            sos_token_num=4, num_layers=1, embed_dims=16, num_heads=2, out_dims=16
        ),
        'decode_head.train_cfg.num_points': 16,
        'decode_head.loss_decode.0.class_weight': CLASS_WEIGHT,
    },
    mask2former_vis={
        'track_head': dict(num_queries=4, loss_cls=dict(class_weight=CLASS_WEIGHT)),
        'track_head.pixel_decoder.encoder.num_layers': 1,
        'track_head.transformer_decoder.num_layers': 1,
        'track_head.positional_encoding.num_feats': 8,
        'track_head.train_cfg.num_points': 16,
    },
)
WIDTHS = (
    'in_channels',
    'out_channels',
    'feat_channels',
    'conv_out_channels',
    'channels',
    'embed_dims',
    'proposal_feature_channel',
)


def family_model(path, shape=None):
    """The thin model of a config such as 'mmdet/retinanet/retinanet_r50_fpn_1x_coco.py', for images
    of a shape (H, W).
    """
    host, _, name = path.partition('/')  # the hub would read every metafile for it
    model = thin(
        Config.fromfile(
            Path(importlib.util.find_spec(host).origin).parent / '.mim' / 'configs' / name
        ).model
    )
    if 'size' in model.get('data_preprocessor', {}):
        model.data_preprocessor.size = shape
    cfg = Config(dict(model=model))
    sizes = SIZES.get(name.partition('/')[0], {})
    cfg.merge_from_dict({f'model.{key}': value for key, value in sizes.items()})
    return cfg.model


def thin(node):
    """A model with a ResNet-18 of a few channels, and everything behind it as narrow; changes
    ``node``.
    """
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list, tuple)):
            thin(child)
    if not isinstance(node, dict):
        return node
    for key in WIDTHS:
        if isinstance(node.get(key), (list, tuple)):
            node[key] = [
                (STAGES if 1024 in node[key] else THIN).get(width, width) for width in node[key]
            ]
        elif key in node:
            node[key] = THIN.get(node[key], node[key])
    if str(node.get('type')).startswith('ResNet'):
        node.update(
            depth=18,
            base_channels=8,
            init_cfg=None,
            frozen_stages=-1,
            norm_eval=False,
            zero_init_residual=False,
        )
    node.pop('pretrained', None)
    if (node.get('init_cfg') or {}).get('type') == 'Pretrained':
        node['init_cfg'] = None
    if node.get('num_groups') == 32:
        node['num_groups'] = 4
    if 'num_feats' in node:
        node['num_feats'] = 8
    node.update(NOT_IN_CONFIG.get(node.get('type'), {}))
    if 'fc_out_channels' in node:
        node['fc_out_channels'] = 24
    if 'num_classes' in node:
        node['num_classes'] = NUM_CLASSES
    return node


def cascade_config(name):
    """Stock Cascade R-CNN or HTC with masks, of two stages; every RoI is sampled, so none by
    chance.
    """
    model = family_model(
        dict(
            cascade='mmdet/cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
            htc='mmdet/htc/htc_r50_fpn_1x_coco.py',
            mask='mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        )[name]
    )
    model.train_cfg.rpn_proposal.update(nms_pre=30, max_per_img=15)
    stages = [model.train_cfg.rcnn] if name == 'mask' else model.train_cfg.rcnn
    for stage in (model.train_cfg.rpn, *stages):
        stage.sampler.update(num=100000, pos_fraction=1.0)
    if name != 'mask':
        head = model.roi_head
        head.update(num_stages=2, stage_loss_weights=[1, 0.5])
        for key in ('bbox_head', 'mask_head'):
            if isinstance(head[key], list):
                head[key] = head[key][:2]
        model.train_cfg.rcnn = model.train_cfg.rcnn[:2]
    return model
