"""Contract 2 with the l2 norm: a step's gradients are those of explicit graphs, in which every
vector's length is taken by itself.
"""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from support.exact import naive_mix
from support.tiny import gradients
from support.toy import EXACT, RATIOS, assert_same, batch, host

STEP = 0.2  # the third step leaves the ball of EXACT's epsilon, 0.3


def vectors(tensor, over):
    """Index of every vector that has a length of its own."""
    if over == 'sample' or tensor.dim() == 2:
        return [(n,) for n in range(len(tensor))]
    return [
        (n, slice(None), *position)
        for n, *position in product(*(range(size) for size in (len(tensor), *tensor.shape[2:])))
    ]


def unit(feature, index, kind):
    if kind == 'absolute':
        return 1.0
    if kind == 'norm':
        return feature[index].square().sum().sqrt()
    channels = feature.transpose(0, 1).flatten(1)
    std = (channels - channels.mean(1, keepdim=True)).square().mean(1).sqrt()
    return std.view(-1, *[1] * (feature.dim() - 2)).expand(feature.shape[1:])[index[1:]].norm()


def naive_deltas(features, clean, tail, num_steps, over, kind):
    deltas = [torch.zeros_like(f) for f in features]
    for step in range(num_steps):
        if step == 0:
            grads = torch.autograd.grad(clean, features, retain_graph=True)
        else:
            moved = [(f + d).detach().requires_grad_() for f, d in zip(features, deltas)]
            grads = torch.autograd.grad(tail(moved), moved)
        for f, d, g in zip(features, deltas, grads):
            for index in vectors(f, over):
                length = unit(f.detach(), index, kind)
                d[index] += STEP * length * g[index] / g[index].norm()
                radius = EXACT['epsilon'] * length
                if d[index].norm() > radius:
                    d[index] *= radius / d[index].norm()
    return deltas


def parts(model, x, levels):
    """A map of 2 channels and 3 positions, and with two levels a vector."""
    maps = torch.tanh(model.front(x)).view(-1, 2, 3, 1)
    return [maps, torch.tanh(model.side(x))][:levels]


def objective(model, features, y):
    total = features[0].flatten(1) if len(features) == 1 else features[0].flatten(1) * features[1]
    return F.cross_entropy(model.classifier(model.norm(model.middle(total))), y)


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize('moments', (None, 'batch'))
@pytest.mark.parametrize('kind', ('norm', 'std', 'absolute'))
@pytest.mark.parametrize('over', ('sample', 'position'))
@pytest.mark.parametrize('num_steps', (1, 3))
@pytest.mark.parametrize('levels', (1, 2))
def test_step_is_the_formula(levels, num_steps, over, kind, moments, detach):
    settings = AFANSettings(
        **dict(EXACT, moments=moments),
        norm='l2',
        norm_over=over,
        epsilon_unit=kind,
        num_steps=num_steps,
        step_size=STEP,
        detach=detach,
    )

    def run(model, x, y):
        def tail(features):
            return dict(loss=objective(model, features, y))

        return tail(tap('site', parts(model, x, levels), tail, settings))

    model, data = host(run), batch()
    ours = gradients(model, data)
    features = parts(model, data['x'], levels)
    clean = objective(model, features, data['y'])

    def tail(moved):
        return objective(model, moved, data['y'])

    deltas = naive_deltas(features, clean, tail, num_steps, over, kind)
    starts = [f.detach() if detach else f for f in features]
    total = clean + sum(
        EXACT['adv_weight'] * tail([naive_mix(f, r * d, moments) for f, d in zip(starts, deltas)])
        for r in RATIOS
    )
    model.zero_grad()
    total.backward()
    assert_same(ours, {name: p.grad for name, p in model.named_parameters()})
