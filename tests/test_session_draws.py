"""``draws='clean'``: the adversarial passes repeat the random draws of the clean one."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from support.tiny import (
    assert_close,
    batch_of,
    build,
    detector_config,
    gradients,
    optim_wrapper,
    seed_everything,
    segmentor_config,
    with_afan,
)
from support.toy import EXACT, assert_same, batch, formula, host


def read_streams():
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def set_streams(state):
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


def noisy_loss(model, f, y):
    """Draws from every global stream."""
    f = F.dropout(f, 0.5) * (1 + np.random.rand()) * (1 + random.random())
    return F.cross_entropy(model.classifier(f), y)


@pytest.mark.parametrize('num_steps', (1, 2))
@pytest.mark.parametrize('detach', (True, False))
def test_passes_repeat_the_clean_draws(detach, num_steps):
    """Two strengths with one mask; what the clean pass drew before the site is not drawn again."""
    settings = dict(EXACT, detach=detach, draws='clean', num_steps=num_steps, step_size=0.3)

    def run(model, x, y):
        def tail(f):
            return dict(loss=noisy_loss(model, f, y))

        return tail(tap('site', F.dropout(model.front(x), 0.2), tail, AFANSettings(**settings)))

    model, data = host(run), batch()
    seed_everything(3)
    ours = gradients(model, data)
    after = torch.rand(3)

    seed_everything(3)
    feature = F.dropout(model.front(data['x']), 0.2)
    at_site = read_streams()
    clean = noisy_loss(model, feature, data['y'])
    assert torch.equal(torch.rand(3), after)  # the host goes on as after a stock step

    def again(f):
        set_streams(at_site)
        return noisy_loss(model, f, data['y'])

    if num_steps == 1:
        assert_same(ours, formula(model, clean, [(feature, again, detach)]))
        return
    (first,) = torch.autograd.grad(clean, feature, retain_graph=True)
    moved = (feature + 0.3 * first.sign()).detach().requires_grad_()
    (second,) = torch.autograd.grad(again(moved), moved)
    delta = (0.3 * first.sign() + 0.3 * second.sign()).clamp(-0.3, 0.3)
    start = feature.detach() if detach else feature
    total = clean + 0.7 * (again(start + 0.5 * delta) + again(start + delta))
    model.zero_grad()
    total.backward()
    assert_same(ours, {name: p.grad for name, p in model.named_parameters()})


def control(host_name, draws, **sites):
    """Gradients of the unperturbed passes, weights that sum to one, and those of stock."""
    if host_name == 'segmentor':
        config = segmentor_config(dropout=0.5, auxiliary=False)
    else:
        config = detector_config()
        for stage in ('rpn', 'rcnn'):  # fewer than there are, so that they are drawn
            config.train_cfg[stage].sampler.update(num=8, pos_fraction=0.5)
    settings = dict(perturbation='none', moments=None, num_strengths=1, adv_weight=0.5, draws=draws)
    found = []
    for model, wrapper in (
        (with_afan(config, **{key: dict(settings, **each) for key, each in sites.items()}), True),
        (config, False),
    ):
        model = build(model)
        options = dict(clean_weight='complement') if wrapper else dict(kind='OptimWrapper')
        seed_everything(5)
        found.append(gradients(model, batch_of(host_name), optim_wrapper(model, **options)))
    return found


@pytest.mark.parametrize(
    'host_name, sites',
    (
        ('segmentor', dict(neck=dict())),
        ('segmentor', dict(neck=dict(joint=True), head=dict(joint=True))),
        ('detector', dict(neck=dict())),
        ('detector', dict(head=dict())),
    ),
    ids=('segmentor', 'segmentor-joint', 'fpn', 'roi'),
)
def test_the_control_of_one_is_stock(host_name, sites):
    """Dropout and samplers included. The RPN's losses are not in the tail of a site of RoIs."""
    found = control(host_name, 'clean', **sites)
    if host_name == 'detector' and 'head' in sites:
        found = [{k: g for k, g in each.items() if k.startswith('roi_head.')} for each in found]
    assert_close(*found)


def test_own_draws_are_others():
    for host_name in ('segmentor', 'detector'):
        ours, stock = control(host_name, 'own', neck=dict())
        with pytest.raises(AssertionError):
            assert_close(ours, stock, rtol=0.05)
