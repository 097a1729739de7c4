"""channel_axis=-1: tokens are perturbed as a convolution's feature with their values would be."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn

from afan_mm import AFANSettings, tap
from afan_mm.conversion import convert
from afan_mm.conversion.channels import channel_axis
from afan_mm.models.point import Point
from support.tiny import gradients
from support.toy import host
from support.versions import counts_operations

SETTINGS = dict(
    position=dict(norm='l2', norm_over='position', epsilon_unit='norm', moments=None),
    sample=dict(norm='l2', norm_over='sample', epsilon_unit='std', moments='instance'),
    paper=dict(moments='batch'),
    group=dict(epsilon_unit='std', moments='group', num_groups=2, estimator='per_sample'),
    noise=dict(perturbation='gaussian', moments='positional'),
    several_steps=dict(num_steps=3, moments='layer', detach=True),
)


def tokens_host(tapped, seen=None):
    """Two sites among tokens (N, *S, 6)."""

    def run(model, x, y):
        def second(tokens):
            if seen is not None:
                seen.append(tokens)
            return dict(loss=F.cross_entropy(model.classifier(tokens.flatten(1, -2).mean(1)), y))

        def first(tokens):
            tokens = torch.tanh(model.middle(tokens))
            return second(tapped('second', tokens, second))

        return first(tapped('first', model.front(x), first))

    return host(run)


def tokens(*shape):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, *shape, 4, generator=generator, dtype=torch.float64)
    return dict(x=x, y=torch.randint(0, 3, (5,), generator=generator))


@pytest.mark.parametrize('joint', (False, True))
@pytest.mark.parametrize('shape', ((8,), (2, 3)))
@pytest.mark.parametrize('name', SETTINGS)
def test_gradients_are_those_of_the_feature_turned_by_hand(name, shape, joint):
    afan = dict(SETTINGS[name], epsilon=0.3, joint=joint)

    def by_hand(site, feature, tail):
        first = tap(
            site,
            feature.movedim(-1, 1),
            lambda turned: tail(turned.movedim(1, -1)),
            AFANSettings(site, **afan),
        )
        return first.movedim(1, -1)

    def ours(site, feature, tail):
        return tap(site, feature, tail, AFANSettings(site, channel_axis=-1, **afan))

    def second_axis(site, feature, tail):
        return tap(site, feature, tail, AFANSettings(site, **afan))

    found, expected, other = (
        gradients(tokens_host(tapped), tokens(*shape)) for tapped in (ours, by_hand, second_axis)
    )
    read = [key for key, gradient in expected.items() if gradient is not None]
    assert len(read) == 6 and all(torch.equal(found[key], expected[key]) for key in read)
    assert name == 'several_steps' or any(not torch.equal(found[k], other[k]) for k in read)


def test_each_token_is_perturbed_by_a_share_of_its_own_length():
    seen = []

    def tapped(site, feature, tail):
        afan = dict(SETTINGS['position'], epsilon=0.1, strengths='linspace')
        afan['num_strengths'] = int(site == 'second')  # the first one is off
        return tap(site, feature, tail, AFANSettings(site, channel_axis=-1, **afan))

    gradients(tokens_host(tapped, seen), tokens(7))
    clean, adversarial = seen
    torch.testing.assert_close((adversarial - clean).norm(dim=-1), 0.1 * clean.norm(dim=-1))


def test_levels_keep_their_container():
    seen = []

    def run(model, x, y):
        def tail(levels):
            seen.append((type(levels), [level.shape for level in levels]))
            return dict(loss=sum(level.square().sum() for level in levels))

        levels = [model.front(x), model.side(x[:, 0])]
        return tail(tap('levels', levels, tail, AFANSettings('levels', channel_axis=-1)))

    gradients(host(run), tokens(7))
    assert seen == [(list, [(5, 7, 6), (5, 6)])] * 4


def test_unknown_axis():
    with pytest.raises(ValueError, match=r'channel_axis must be one of \(1, -1\), but got 2'):
        AFANSettings(channel_axis=2)


@pytest.mark.parametrize(
    'module, shape, expected',
    (
        (nn.Conv2d(3, 8, 1), (2, 8, 5, 5), 1),
        (nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32)), (2, 32, 8), -1),  # 32 tokens
        (nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32)), (2, 8, 32), 1),  # turned
        (nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8)), (2, 49, 8), -1),  # patches merged
        (nn.Linear(8, 3), (2, 5, 5, 8), -1),  # as a classifier reads it
        (nn.Linear(8, 3), (2, 8), 1),
        (nn.Linear(8, 5), (2, 5, 8), 1),  # cannot be told
    ),
)
def test_axis_that_the_layers_tell(module, shape, expected):
    assert channel_axis(torch.zeros(shape), Point(module)) == expected


@counts_operations
def test_late_sites_of_a_vision_transformer():
    """The layers pass on tokens, the neck site is a vector."""
    pytest.importorskip('mmpretrain')
    arch = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=8),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=16),
        data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=3),
    )
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    stock = Config(dict(default_scope='mmpretrain', model=model, optim_wrapper=wrapper))
    afan = convert(stock).overrides['model']['neck']['afan']
    axes = {site.get('site', 'input'): site.get('channel_axis', 1) for site in afan}
    assert axes == {'backbone.layers.2': -1, 'backbone.layers.3': -1, 'input': 1}
    # what the user says wins
    afan = convert(stock, channel_axis=1).overrides['model']['neck']['afan']
    assert {site['channel_axis'] for site in afan} == {1}
