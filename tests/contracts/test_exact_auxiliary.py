"""Contract 2 with ``bn_stats='auxiliary'``: a step is that of two models that share all weights but
those of their batch norms, one for the clean pass and one for the others.
"""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

from afan_mm.isolation import replaced
from afan_mm.norms import Linf
from support.exact import EPSILON, RATIOS, assert_same
from support.tiny import (
    HOSTS,
    batch_of,
    build,
    gradients,
    gradients_at_updates,
    optim_wrapper,
    stock_config,
    with_afan,
)

SETTINGS = dict(
    epsilon=EPSILON,
    moments=None,
    num_strengths=2,
    strengths='linspace',
    adv_weight=0.7,
    bn_stats='auxiliary',
)
OWN = 'afan_auxiliary'


def norms_of(model):
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d) and OWN not in name
    }


def two_branches(host):
    """A stock model, and another one with batch norms of its own; all else is the same tensors."""
    main = build(stock_config(host)).double()
    other = copy.deepcopy(main)
    torch.manual_seed(5)
    for norm in norms_of(other).values():
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.normal_(norm.bias, std=0.3)
    for name, module in other.named_modules():
        if name not in norms_of(other):
            for key in module._parameters:
                module._parameters[key] = main.get_submodule(name)._parameters[key]
    return main, other


def with_norms_of(model, main, other):
    """The A-FAN model with the weights of both."""
    state = dict(main.state_dict())
    for name, norm in norms_of(other).items():
        state.update({f'{name}.{OWN}.{key}': value for key, value in norm.state_dict().items()})
    kept = {key: state[key] for key in model.state_dict()}
    model.load_state_dict(kept, strict=True)
    return model


def joined(main, other, of, names):
    """By the names of the A-FAN model: ``of(model)`` of the stock model and of the other's norms."""
    found = dict(of(main))
    for name, value in of(other).items():
        path, _, key = name.rpartition('.')
        if path in norms_of(other):
            found[f'{path}.{OWN}.{key}'] = value
    return {name: found[name] for name in names}


def objective(main, other, feature, clean, tail, num_steps, start=None, cut=lambda f: f):
    """Eq. 6; ``tail(model, feature)`` is a loss. Without a start the first gradient is the clean
    one.
    """
    delta = torch.zeros_like(feature) if start is None else start
    for step in range(num_steps):
        if step == 0 and start is None:
            (grad,) = torch.autograd.grad(clean, feature, retain_graph=True)
        else:
            moved = (feature + delta).detach().requires_grad_()
            (grad,) = torch.autograd.grad(tail(other, moved), moved)
        delta = (delta + 0.2 * grad.sign()).clamp(-EPSILON, EPSILON).detach()
    total = clean + sum(0.7 * tail(other, cut(feature) + ratio * delta) for ratio in RATIOS)
    for model in (main, other):
        model.zero_grad()
    total.backward()


def grads(model):
    return {name: p.grad for name, p in model.named_parameters()}


def statistics(model):
    return {name: b for name, b in model.named_buffers() if 'running' in name}


def assert_same_step(model, batch, main, other):
    ours = gradients(model, batch)
    names = [n for n in ours if not n.startswith(f'auxiliary_head.convs.0.bn.{OWN}')]
    expected = joined(main, other, grads, names)
    assert any(OWN in name and expected[name].any() for name in names)
    assert_same({name: ours[name] for name in names}, expected)
    own = statistics(model)
    names = [n for n in own if not n.startswith(f'auxiliary_head.convs.0.bn.{OWN}')]
    assert_same({name: own[name] for name in names}, joined(main, other, statistics, names))


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('num_steps, random_start', ((1, False), (2, True)))
def test_at_the_image(host, num_steps, random_start, monkeypatch):
    monkeypatch.setattr(Linf, 'uniform', lambda self, like, generator: torch.sin(7 * like))
    settings = dict(SETTINGS, num_steps=num_steps, random_start=random_start, step_size=0.2)
    stock, batch = stock_config(host), batch_of(host)
    main, other = two_branches(host)
    config = dict(stock, type='AFANModel', base=stock.type, afan=settings)
    model = with_norms_of(build(type(stock)(config)).double(), main, other)

    data = main.data_preprocessor(copy.deepcopy(batch), True)
    image = data['inputs'].double().requires_grad_()

    def tail(branch, pixels):
        losses = branch.loss(pixels, copy.deepcopy(data['data_samples']))
        return branch.parse_losses(losses)[0]

    start = EPSILON * torch.sin(7 * image.detach()) if random_start else None
    objective(main, other, image, tail(main, image), tail, num_steps, start)
    assert_same_step(model, batch, main, other)


@pytest.mark.parametrize('host', HOSTS)
def test_pixels(host, monkeypatch):
    """``epsilon_unit='pixel'`` is PGD on what the data preprocessor normalised, in grey levels."""
    monkeypatch.setattr(Linf, 'uniform', lambda self, like, generator: torch.sin(7 * like))
    settings = dict(SETTINGS, epsilon='8/255', step_size='5/255', epsilon_unit='pixel')
    settings.update(num_steps=2, random_start=True)
    stock, batch = stock_config(host), batch_of(host)
    main, other = two_branches(host)
    config = dict(stock, type='AFANModel', base=stock.type, afan=settings)
    model = with_norms_of(build(type(stock)(config)).double(), main, other)

    data = main.data_preprocessor(copy.deepcopy(batch), True)
    mean, std = (
        torch.tensor(stock.data_preprocessor[key]).view(3, 1, 1) for key in ('mean', 'std')
    )
    clean = torch.stack(batch['inputs']).flip(1).double()  # RGB
    assert clean.min() < 2 and clean.max() > 253
    torch.testing.assert_close(data['inputs'].double(), (clean - mean) / std, rtol=0, atol=1e-5)

    def loss(branch, pixels):
        losses = branch.loss((pixels - mean) / std, copy.deepcopy(data['data_samples']))
        return branch.parse_losses(losses)[0]

    def inside(moved):
        return (clean + (moved - clean).clamp(-8, 8)).clamp(0, 255).detach()

    moved = inside(clean + 8 * torch.sin(7 * data['inputs'].double()))
    for _ in range(2):
        moved.requires_grad_()
        moved = inside(moved + 5 * torch.autograd.grad(loss(other, moved), moved)[0].sign())
    total = loss(main, clean)
    total = total + sum(0.7 * loss(other, clean + r * (moved - clean)) for r in RATIOS)
    for each in (main, other):
        each.zero_grad()
    total.backward()
    assert_same_step(model, batch, main, other)


@pytest.mark.parametrize('host', HOSTS)
def test_inside_the_backbone(host):
    """Norms before the site have no auxiliary ones, also where an activation in place has overwritten
    what they returned.
    """
    settings = dict(SETTINGS, num_steps=2, step_size=0.2, site='backbone.layer1')
    stock, batch = stock_config(host), batch_of(host)
    main, other = two_branches(host)
    config = dict(with_afan(stock, neck=settings), type='AFANModel', base=stock.type)
    model = with_norms_of(build(type(stock)(config)).double(), main, other)
    assert OWN in model.backbone.layer2[0].bn1._modules
    assert OWN not in model.backbone.layer1[0].bn1._modules

    data = main.data_preprocessor(copy.deepcopy(batch), True)
    image = data['inputs'].double()
    backbone = main.backbone
    stem = (
        backbone.stem(image) if backbone.deep_stem else backbone.bn1(backbone.conv1(image)).relu()
    )
    feature = backbone.layer1(backbone.maxpool(stem))

    def tail(branch, feature):
        def levels(inputs):
            found = [feature]
            for stage in (branch.backbone.layer2, branch.backbone.layer3, branch.backbone.layer4):
                found.append(stage(found[-1]))
            return tuple(found)

        with replaced(branch.backbone, forward=levels):
            losses = branch.loss(image, copy.deepcopy(data['data_samples']))
        return branch.parse_losses(losses)[0]

    objective(main, other, feature, tail(main, feature), tail, num_steps=2)
    assert_same_step(model, batch, main, other)


@pytest.mark.parametrize('num_steps, detach', itertools.product((1, 3), (True, False)))
def test_after_the_backbone(num_steps, detach):
    """Only the head's norms have auxiliary ones; the low-level feature reaches both branches."""
    batch = batch_of('segmentor')
    main, other = two_branches('segmentor')
    settings = dict(SETTINGS, num_steps=num_steps, step_size=0.2, detach=detach)
    stock = with_afan(stock_config('segmentor'), neck=settings)
    config = type(stock)(dict(stock, type='AFANModel', base=stock.type))
    model = with_norms_of(build(config).double(), main, other)
    assert not any(OWN in name for name in model.state_dict() if name.startswith('backbone.'))

    data = main.data_preprocessor(copy.deepcopy(batch), True)
    samples, levels = data['data_samples'], main.backbone(data['inputs'])
    cut = (lambda t: t.detach()) if detach else (lambda t: t)

    def decode(branch, feature, low):
        head = branch.decode_head
        pooled = F.interpolate(head.image_pool(feature), feature.shape[2:], mode='bilinear')
        feature = head.bottleneck(torch.cat([pooled, *head.aspp_modules(feature)], 1))
        low = head.c1_bottleneck(low)
        feature = F.interpolate(feature, low.shape[2:], mode='bilinear')
        feature = head.sep_bottleneck(torch.cat([feature, low], 1))
        return head.loss_by_feat(head.conv_seg(feature), samples)['loss_ce']

    auxiliary = main.auxiliary_head.loss(levels, samples, None)['loss_ce']
    clean = decode(main, levels[-1], levels[0]) + auxiliary
    objective(
        main,
        other,
        levels[-1],
        clean,
        lambda branch, feature: decode(branch, feature, cut(levels[0])),
        num_steps,
        cut=cut,
    )
    assert_same_step(model, batch, main, other)


@pytest.mark.parametrize('host', HOSTS)
def test_accumulation(host):
    stock = stock_config(host)
    config = type(stock)(dict(stock, type='AFANModel', base=stock.type, afan=dict(SETTINGS)))
    batches = [batch_of(host, seed=seed) for seed in range(2)]
    alone = [gradients(build(config).double(), batch) for batch in batches]
    model = build(config).double()
    (found,) = gradients_at_updates(model, optim_wrapper(model, accumulative_counts=2), batches)
    assert_same(found, {name: (alone[0][name] + alone[1][name]) / 2 for name in found})
