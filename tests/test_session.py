"""Taps and tails on a user's own model: explicit graphs in float64, and clear errors."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import nn

from afan_mm import AFANSettings, is_recording, tap
from support.exact import naive_mix
from support.tiny import gradients, optim_wrapper
from support.toy import EXACT, RATIOS, assert_same, batch, formula, host


class MyHead(BaseModule):
    """The example of ``afan_mm/taps.py``, as it stands there."""

    def __init__(self, afan=None):
        super().__init__()
        self.classifier = nn.Linear(6, 3)
        self.afan = AFANSettings.from_config(afan or {}, name='my_head')

    def loss(self, feature, targets):
        def tail(feature):
            return dict(loss_cls=F.cross_entropy(self.classifier(feature), targets))

        return tail(tap('my_head', feature, tail, self.afan))


def head_host(**afan):
    model = host(lambda model, x, y: model.head.loss(torch.tanh(model.front(x)), y))
    torch.manual_seed(1)
    model.head = MyHead(dict(EXACT, **afan)).double()
    return model


def test_a_tap_of_another_name_than_its_settings():
    """The declared site would seem not to have run."""
    model = head_host()
    model.head.afan = AFANSettings(name='other', **EXACT)
    message = "the name of a tap must be that of its settings, 'other', but got 'my_head'"
    with pytest.raises(ValueError, match=message):
        model.train_step(batch(), optim_wrapper(model))


@pytest.mark.parametrize('detach', (True, False))
def test_example_of_the_docstring(detach):
    """Its gradients are those of the formula with batch moments, and it learns."""
    model, data = head_host(moments='batch', detach=detach), batch()
    ours = gradients(model, data)
    feature = torch.tanh(model.front(data['x']))
    clean = F.cross_entropy(model.head.classifier(feature), data['y'])
    direction = torch.autograd.grad(clean, feature, retain_graph=True)[0].sign()
    start = feature.detach() if detach else feature
    total = clean + sum(
        0.7
        * F.cross_entropy(
            model.head.classifier(naive_mix(start, r * 0.3 * direction, 'batch')), data['y']
        )
        for r in RATIOS
    )
    model.zero_grad()
    total.backward()
    assert_same(ours, {name: p.grad for name, p in model.named_parameters()})
    wrapper = optim_wrapper(model)
    wrapper.optimizer.param_groups[0]['lr'] = 0.1
    losses = [model.train_step(data, wrapper)['loss_cls'].item() for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]


def test_tap_returns_its_input_where_nothing_records():
    """Without a session, in evaluation, without gradients, under a stock wrapper, with no
    strengths, in a tail, after a failure.
    """
    seen, recording = [], []

    def run(model, x, y):
        feature = model.front(x)

        def tail(f):
            recording.append(is_recording())
            seen.append(tap('site', f, tail) is f)
            return dict(loss=f.square().sum())

        recording.append(is_recording())
        tapped = tap(
            'site', feature, tail, AFANSettings(**dict(EXACT, num_strengths=model.strengths))
        )
        seen.append(tapped is feature)
        return dict(loss=tapped.square().sum())

    model, data = host(run), batch()
    model.strengths = 2
    wrapper = optim_wrapper(model)
    model(**data)
    model.eval()(**data)
    with wrapper.optim_context(model), torch.no_grad():
        model.train()(**data)
    model.train_step(data, optim_wrapper(model, 'OptimWrapper'))
    with pytest.raises(ZeroDivisionError), wrapper.optim_context(model):
        raise ZeroDivisionError
    model(**data)
    assert seen == [True] * 5 and recording == [False] * 5
    seen.clear(), recording.clear()
    model.train_step(data, wrapper)  # the clean pass, and two passes of the tail
    assert seen == [False, True, True] and recording == [True, False, False]
    model.strengths = 0
    model.train_step(data, wrapper)
    assert seen[3:] == [True]


def test_site_tapped_twice():
    def run(model, x, y):
        feature = model.front(x)
        return dict(
            loss=sum(tap('twin', feature, lambda f: dict(loss=f.sum())).sum() for _ in range(2))
        )

    with pytest.raises(ValueError, match="'twin' was tapped twice .* name of its own"):
        gradients(host(run), batch())


class Levels(NamedTuple):
    fine: torch.Tensor
    coarse: torch.Tensor


def named(levels):
    return Levels(*levels)


@pytest.mark.parametrize('container', (tuple, list, named))
@pytest.mark.parametrize('detach', (True, False))
def test_levels_keep_their_container_and_are_all_perturbed(container, detach):
    kinds = []

    def loss(model, levels, y):
        return F.cross_entropy(model.classifier(model.middle(levels[0]) * levels[1]), y)

    def run(model, x, y):
        def tail(levels):
            kinds.append(type(levels))
            return dict(loss=loss(model, levels, y))

        levels = tap(
            'levels',
            container([model.front(x), model.side(x)]),
            tail,
            AFANSettings(detach=detach, **EXACT),
        )
        kinds.append(type(levels))
        return dict(loss=loss(model, levels, y))

    model, data = host(run), batch()
    ours = gradients(model, data)
    assert kinds == [type(container([0, 1]))] * 3
    levels = torch.stack([model.front(data['x']), model.side(data['x'])])
    expected = formula(
        model,
        loss(model, levels, data['y']),
        [(levels, lambda f: loss(model, f, data['y']), detach)],
    )
    assert_same(ours, expected)


@pytest.mark.parametrize('detach', (True, False))
def test_context_reaches_the_tail_and_learns_when_attached(detach):
    """The context shares the front with the feature; an integer tensor may be among it."""

    def loss(model, feature, context, keep, y):
        return F.cross_entropy(model.classifier(model.middle(feature) * context)[keep], y[keep])

    def parts(model, x):
        front = torch.tanh(model.front(x))
        return front * 2, model.side(x) + front, torch.arange(6)

    def run(model, x, y):
        feature, context, keep = parts(model, x)

        def tail(feature, context, keep):
            return dict(loss=loss(model, feature, context, keep, y))

        return tail(
            tap('site', feature, tail, AFANSettings(detach=detach, **EXACT), [context, keep]),
            context,
            keep,
        )

    model, data = host(run), batch()
    ours = gradients(model, data)
    feature, context, keep = parts(model, data['x'])
    clean = loss(model, feature, context, keep, data['y'])
    kept = context.detach() if detach else context
    assert_same(
        ours,
        formula(model, clean, [(feature, lambda f: loss(model, f, kept, keep, data['y']), detach)]),
    )


def test_a_parameter_as_context_learns():
    """A leaf of the graph is as good a context as a computed tensor, also in the next step."""

    def loss(model, feature, query, y):
        return F.cross_entropy(model.classifier(feature * query), y)

    def run(model, x, y):
        def tail(feature, query):
            return dict(loss=loss(model, feature, query, y))

        query = model.side.bias
        return tail(tap('site', model.front(x), tail, AFANSettings(**EXACT), [query]), query)

    model, data = host(run), batch()
    ours = [gradients(model, data) for _ in range(2)]
    feature, query = model.front(data['x']), model.side.bias
    expected = formula(
        model,
        loss(model, feature, query, data['y']),
        [(feature, lambda f: loss(model, f, query, data['y']), False)],
    )
    assert_same(ours[0], expected)
    assert_same(ours[1], expected)


@pytest.mark.parametrize('levels', (1, 2))
@pytest.mark.parametrize('detach', (True, False))
def test_feature_modified_in_place_after_the_site(levels, detach):
    def run(model, x, y):
        features = [model.front(x) for _ in range(levels)]
        tapped = tap(
            'site',
            features,
            lambda f: dict(loss=f[-1].relu().sum()),
            AFANSettings(detach=detach, **EXACT),
        )
        return dict(loss=F.relu(tapped[-1], inplace=True).sum())

    with pytest.raises(
        RuntimeError,
        match=r"'site': the feature was modified in place after it was tapped.*inplace=False",
    ):
        gradients(host(run), batch())


def test_context_modified_in_place_after_the_site():
    """The tail would read another context than the clean pass did."""

    def run(model, x, y):
        context = model.side(x)
        tapped = tap(
            'site',
            model.front(x),
            lambda f, c: dict(loss=(f * (c + 1)).sum()),
            AFANSettings(**EXACT),
            [context],
        )
        return dict(loss=(tapped * context.add_(1)).sum())

    with pytest.raises(RuntimeError, match="'site'.*modified in place after it was tapped"):
        gradients(host(run), batch())


@pytest.mark.parametrize('losses', ({}, dict(acc=torch.ones(1))))
def test_tail_without_losses(losses):
    """Nothing to attack is an error that says so."""

    def run(model, x, y):
        return dict(loss=tap('site', model.front(x), lambda f: losses, AFANSettings(**EXACT)).sum())

    with pytest.raises(
        ValueError, match=r"'site': no loss depends on its feature.*the tail returned \[('acc')?\]"
    ):
        gradients(host(run), batch())


def test_attributes_of_a_host_may_be_called_as_ours():
    """Such as ``recording``, which tells a session."""
    found = []
    for named in (False, True):
        model = head_host()
        for module in model.modules() if named else ():
            module.recording = module.records = module.sites = module.tap = False
        found.append(gradients(model, batch()))
    assert_same(*found)


@pytest.mark.parametrize('joint', (False, True), ids=('one-site', 'joint'))
@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
def test_two_backwards_after_one_forward_are_refused(detach, joint):
    """The passes would follow the first loss alone, or run once more."""
    first, second = (
        AFANSettings(name=name, detach=detach, joint=joint, **EXACT) for name in ('site', 'later')
    )

    def run(model, x, y):
        def tail(feature):
            feature = torch.tanh(feature)
            feature = tap('later', feature, None, second) if joint else feature
            losses = F.cross_entropy(model.classifier(feature), y, reduction='none')
            return dict(loss_a=losses[:4].mean(), loss_b=losses[4:].mean())

        return tail(tap('site', model.front(x), tail, first))

    model = host(run)
    wrapper = optim_wrapper(model)
    with wrapper.optim_context(model):
        losses = model(**batch())
    wrapper.backward(losses['loss_a'], retain_graph=True)
    with pytest.raises(RuntimeError, match="'site': a second backward .* call backward once"):
        wrapper.backward(losses['loss_b'])
