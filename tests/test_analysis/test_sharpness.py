"""Loss along directions in feature space: a host whose losses can be written out, and real ones."""

import copy
import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from afan_mm.analysis.curvature import CurvatureSettings, measure_curvature
from afan_mm.analysis.losses import FixedLosses
from afan_mm.analysis.sharpness import (
    SharpnessSettings,
    image_sharpness,
    measure_sharpness,
    random_signs,
    strengths_of,
)
from afan_mm.analysis.sharpness_report import draw_sharpness, sharpness_table
from afan_mm.settings import EPSILON_UNITS, AFANSettings
from support.runs import afan_model
from support.tiny import (
    HOSTS,
    assert_identical,
    batch_of,
    build,
    parameters,
    random_streams,
    segmentation_batch,
    stock_config,
    with_afan,
)

EPSILON = 0.3


def test_strengths():
    assert strengths_of(4) == [0.25, 0.5, 0.75, 1.0]


def test_random_signs_keep_the_size_of_every_element():
    delta = torch.tensor([[0.5, -2.0, 0.0, 1.0]]).repeat(1, 250)
    found = random_signs(delta, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.abs(), delta.abs())
    moved = (found * delta)[delta != 0]
    assert 0.4 < float((moved > 0).float().mean()) < 0.6


@torch.no_grad()
def loss_of(model, levels, data):
    return float(model.decode_head.loss(levels, data['data_samples'], None)['loss_ce'])


@pytest.fixture
def drawn(monkeypatch):
    """Each adversarial perturbation and the random one made of it, in their order."""
    seen = []

    def recorded(delta, generator):
        seen.append((delta, random_signs(delta, generator)))
        return seen[-1][1]

    monkeypatch.setattr('afan_mm.analysis.sharpness.random_signs', recorded)
    return seen


def test_losses_against_the_formula(drawn):
    """Direction, strengths and losses written out for a segmentor in evaluation mode; the auxiliary
    head, which does not read the feature, is no part of the tail's loss.
    """
    model = afan_model(dict(epsilon=EPSILON, num_strengths=3))
    batch = segmentation_batch(num_samples=1)
    settings = SharpnessSettings(num_points=2, num_random=3)
    found = image_sharpness(model, batch, settings)['neck']
    model.eval()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    levels = [f.detach() for f in model.backbone(data['inputs'])]
    clean = levels[-1].clone().requires_grad_()
    loss = model.decode_head.loss([*levels[:-1], clean], data['data_samples'], None)['loss_ce']
    direction = torch.autograd.grad(loss, clean)[0].sign()
    assert found.finite and found.clean == pytest.approx(float(loss), rel=1e-5)
    for strength, value in zip((0.5, 1.0), found.adversarial):
        moved = levels[-1] + strength * EPSILON * direction
        assert value == pytest.approx(loss_of(model, [*levels[:-1], moved], data), rel=1e-5)
    assert found.random.shape == (3, 2)
    for row, (_, noise) in zip(found.random, drawn):
        assert torch.equal(noise.abs(), (EPSILON * direction).abs())
        for strength, value in zip((0.5, 1.0), row):
            moved = levels[-1] + strength * noise
            assert value == pytest.approx(loss_of(model, [*levels[:-1], moved], data), rel=1e-5)
    assert found.adversarial[1] > found.adversarial[0] > found.clean
    assert found.adversarial[1] > found.random[:, 1].max()


def test_random_directions_are_independent(drawn):
    """Those of an image, of other images and of other sites, which have one shape here."""
    model = afan_model([dict(site='backbone.layer3', name='third'), dict(name='last')])
    for index in range(2):
        image_sharpness(model, segmentation_batch(num_samples=1), SharpnessSettings(1, 2), index)
    turned = {tuple((delta * noise < 0).flatten()[:100].tolist()) for delta, noise in drawn}
    assert len(turned) == len(drawn) == 2 * 2 * 2


@pytest.mark.parametrize('host', HOSTS)
def test_nothing_is_touched_and_the_rest_is_repeatable(host):
    """Of every site of both hosts; whatever a site is trained with, it is looked at by itself."""
    sites = dict(
        neck=dict(epsilon=EPSILON, perturbation='gaussian', interval=7),
        head=dict(epsilon=EPSILON, num_strengths=1),
    )
    model = build(with_afan(stock_config(host), **sites))
    settings = SharpnessSettings(2, 1, overrides=dict(epsilon=0.2, epsilon_unit='std'))
    batch = batch_of(host, num_samples=1)
    before, streams = parameters(model), random_streams()
    first = image_sharpness(model, batch, settings)
    assert_identical(parameters(model), before)
    assert_identical(
        {k: np.asarray(v) for k, v in random_streams().items()},
        {k: np.asarray(v) for k, v in streams.items()},
    )
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert len(first) == 2
    again = image_sharpness(model, batch, settings)
    for name, losses in first.items():
        assert losses.settings.perturbation == 'gradient'
        assert (losses.settings.epsilon, losses.settings.epsilon_unit) == (0.2, 'std')
        assert losses.adversarial[-1] > losses.clean
        for ours, expected in zip(again[name][1:], losses[1:]):
            np.testing.assert_array_equal(ours, expected)


def test_one_of_the_sites():
    model = afan_model(head={})
    batch = segmentation_batch(num_samples=1)
    settings = SharpnessSettings(1, 1)
    names = set(image_sharpness(model, batch, settings))
    chosen = image_sharpness(model, batch, settings._replace(sites=['neck']))
    assert set(chosen) == {'neck'} < names
    with pytest.raises(ValueError, match=r"sites must be among .*but got \['nek'\]"):
        image_sharpness(model, batch, settings._replace(sites=['nek']))


def test_a_model_without_sites():
    with pytest.raises(ValueError, match=r'sites must be among \[\], .*but got none'):
        image_sharpness(build(stock_config('segmentor')), segmentation_batch(), SharpnessSettings())


def test_joint_sites_are_looked_at_one_by_one():
    """The direction and losses of a site do not depend on whether it is trained jointly."""
    found = []
    for joint in (False, True):
        afan = dict(epsilon=EPSILON, joint=joint)
        model = afan_model(afan, head=afan)
        found.append(
            image_sharpness(model, segmentation_batch(num_samples=1), SharpnessSettings(1, 1))
        )
    assert found[0].keys() == found[1].keys() and len(found[0]) == 2
    for name, losses in found[0].items():
        assert losses[1] == found[1][name][1] and losses[2] == found[1][name][2]


def test_what_a_site_trains_on_does_not_matter():
    """Neither a divergence, whose direction and size are others, nor a steered epsilon."""
    trained = dict(epsilon=EPSILON, objective='consistency', target_gain=0.1)
    batch = segmentation_batch(num_samples=1)
    ours, expected = (
        image_sharpness(afan_model(afan), batch, SharpnessSettings(2, 1))['neck']
        for afan in (trained, dict(epsilon=EPSILON))
    )
    assert ours.settings == expected.settings and ours.clean == expected.clean > 0
    np.testing.assert_array_equal(ours.adversarial, expected.adversarial)


def test_statistics_by_hand(monkeypatch):
    """Two images whose losses rise by 1 and 3; one whose direction is not finite is left out."""
    import afan_mm.analysis.sharpness as module

    def losses(clean, rise, finite=True):
        return module.SiteLosses(
            AFANSettings(epsilon=0.5, epsilon_unit='std'),
            clean,
            np.array([clean + rise / 2, clean + rise]),
            np.array([[clean, clean + 0.1], [clean, clean - 0.1]]),
            finite,
        )

    images = [losses(1.0, 1.0), losses(2.0, 3.0), losses(9.0, 9.0, False), losses(9.0, np.inf)]
    monkeypatch.setattr(
        module, 'image_sharpness', lambda model, batch, settings, index: dict(site=images[index])
    )
    seen = []
    found = measure_sharpness(None, range(4), SharpnessSettings(2, 2), lambda: seen.append(1))[
        'site'
    ]
    json.dumps(found, allow_nan=False)
    assert len(seen) == 4 and (found['images'], found['left_out']) == (2, 2)
    assert found['strengths'] == [0.5, 1.0] and found['clean'] == 1.5
    assert (found['epsilon'], found['unit'], found['norm']) == (0.5, 'std', 'linf')
    assert found['adversarial']['mean'] == [1.0, 2.0]
    np.testing.assert_allclose(found['adversarial']['quantiles']['0.5'], [1.0, 2.0])
    np.testing.assert_allclose(found['adversarial']['quantiles']['0.9'], [1.4, 2.8])
    # four directions: +0.1, -0.1, +0.1, -0.1
    np.testing.assert_allclose(found['random']['mean'], [0, 0], atol=1e-12)
    np.testing.assert_allclose(found['random']['quantiles']['0.1'], [0, -0.1], atol=1e-12)
    table = sharpness_table(dict(stock=dict(site=found)))
    for text in ('stock', '0.5 std (linf)', '+2 (+1.2, +2.8)', '2 (2 left out)'):
        assert text in table
    images[:] = images[2:]
    with pytest.raises(ValueError, match="site 'site' must have a finite loss for an image"):
        measure_sharpness(None, range(2), SharpnessSettings(2, 2))


@pytest.mark.parametrize('changes', (dict(num_points=0), dict(num_random=0)))
def test_settings_are_checked(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f'{name} must be an integer >= 1, but got 0'):
        measure_sharpness(None, [], SharpnessSettings(**changes))


def test_picture():
    """A column for each site; a model that lacks one is drawn where it has it."""
    curve = dict(mean=[0.5, 1.0], quantiles={'0.1': [0, 0.1], '0.5': [0.4, 1], '0.9': [1, 2.0]})
    site = dict(
        strengths=[0.5, 1.0],
        epsilon=0.1,
        unit='std',
        norm='linf',
        images=5,
        left_out=0,
        clean=0.3,
        adversarial=curve,
        random=curve,
    )
    two = draw_sharpness(dict(stock=dict(neck=site), afan=dict(neck=site, head=site)))
    one = draw_sharpness(dict(stock=dict(neck=site)))
    assert two.shape[1] == one.shape[1] + 400 and two.dtype == np.uint8
    assert len(np.unique(two.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize('unit', EPSILON_UNITS)
def test_every_unit_has_words(unit):
    """In the table, and below the picture."""
    curve = dict(mean=[1.0], quantiles={'0.1': [0.1], '0.5': [1], '0.9': [2.0]})
    site = dict(strengths=[1.0], epsilon=0.1, unit=unit, norm='linf', images=5, left_out=0)
    results = dict(stock=dict(neck=dict(site, clean=0.3, adversarial=curve, random=curve)))
    words = AFANSettings(epsilon_unit=unit, norm='linf' if unit == 'pixel' else 'l2').unit_text
    assert f'0.1{words} (linf)' in sharpness_table(results)
    assert draw_sharpness(results).dtype == np.uint8


def test_the_image_of_advprop():
    """The perturbation is so many grey levels, and stays between black and white."""
    afan = dict(epsilon=4 / 255, epsilon_unit='pixel', moments=None, bn_stats='auxiliary')
    stock = stock_config('segmentor')
    model = build(dict(stock, type='AFANModel', base=stock['type'], afan=afan))
    batch = segmentation_batch(num_samples=1)
    results = measure_sharpness(model, [batch], SharpnessSettings(1, 1))
    model.eval()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    image = data['inputs'].detach().requires_grad_()
    loss = sum(v for k, v in model.loss(image, data['data_samples']).items() if 'loss' in k)
    (gradient,) = torch.autograd.grad(loss, image)
    pixels = batch['inputs'][0].float() + 4 * gradient[0].flip(0).sign()  # BGR on disk
    moved = dict(batch, inputs=[pixels.clamp(0, 255)])
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(moved), True)
        losses = model.loss(data['inputs'], data['data_samples'])
    rise = sum(float(v) for k, v in losses.items() if 'loss' in k) - loss.item()
    assert results['image']['adversarial']['mean'][0] == pytest.approx(rise, rel=1e-3)
    assert '0.0157 of the pixel range (linf)' in sharpness_table(dict(a=results))
    draw_sharpness(dict(a=results))


def test_a_classifier_of_mmpretrain():
    """The third host: the clean loss, the rise of it in features, and the curvature after them."""
    from mmpretrain.structures import DataSample

    config = dict(
        type='ImageClassifier',
        data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=3, mean=[127], std=[64]),
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            stem_channels=4,
            base_channels=4,
            out_indices=(3,),
            style='pytorch',
        ),
        neck=dict(type='AFANNeckWrapper', base='GlobalAveragePooling', afan=dict(epsilon=EPSILON)),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.manual_seed(0)
        model = MODELS.build(config)
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 16, 16), generator=generator).to(torch.uint8)
    batch = dict(inputs=[image], data_samples=[DataSample().set_gt_label(2)])
    found = image_sharpness(model, batch, SharpnessSettings(2, 1))['neck']
    losses = FixedLosses(model, [batch])
    with losses.evaluating():
        assert found.clean == pytest.approx(losses.mean(), rel=1e-5)
    assert found.adversarial[1] > found.adversarial[0] > found.clean
    head = {name: p for name, p in model.named_parameters() if name.startswith('head')}
    (eigenvalue,) = measure_curvature(losses, CurvatureSettings(1, 0), head)['eigenvalues']
    # one sample: (diag(p) - p p') x (|x|^2 + 1) has the eigenvalues of the first factor
    with torch.no_grad(), losses.evaluating():
        data = model.data_preprocessor(copy.deepcopy(batch), False)
        feature = model.extract_feat(data['inputs'])[-1][0]
        p = model.head.fc(feature).softmax(0)
        largest = torch.linalg.eigvalsh(torch.diag(p) - torch.outer(p, p))[-1]
    expected = float(largest * (feature.square().sum() + 1))
    assert eigenvalue['value'] == pytest.approx(expected, rel=1e-3)
