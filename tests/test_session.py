"""Taps and tails on a user's own model: explicit graphs in float64, and what is left behind after a step."""
import copy
import gc
import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, BaseModule
from test_exact_segmentation import naive_mix
from tiny import gradients, optim_wrapper
from torch import nn

from afan_mm import AFANSettings, is_recording, tap
from afan_mm.engine import optim_wrapper as wrapper_module

RATIOS = (0.5, 1.0)
EXACT = dict(epsilon=0.3, moments=None, num_strengths=2, strengths='linspace', adv_weight=0.7)


class Host(BaseModel):
    """Layers, and a loss that the test supplies: ``run(model, x, y)`` returns a dict of losses."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.front, self.side, self.middle = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 6)
        self.norm, self.classifier = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x, y, mode='loss'):
        return self.run(self, x, y)


def host(run):
    torch.manual_seed(0)
    return Host(run).double().train()


def batch(num_samples=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return dict(x=torch.randn(num_samples, 4, generator=generator, dtype=torch.float64),
                y=torch.randint(0, 3, (num_samples, ), generator=generator))


def formula(model, clean, sites):
    """Gradients of Eq. 6 from explicit graphs; ``sites`` are (feature, tail as a function of it, detach)."""
    total = clean
    for feature, tail, detach in sites:
        direction = torch.autograd.grad(clean, feature, retain_graph=True)[0].sign()
        start = feature.detach() if detach else feature
        total = total + sum(EXACT['adv_weight'] * tail(start + ratio * EXACT['epsilon'] * direction) for ratio in RATIOS)
    model.zero_grad()
    total.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_same(ours, expected):
    assert ours.keys() == expected.keys() and any(g is not None and g.any() for g in expected.values())
    for name, grad in expected.items():
        assert (ours[name] is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(ours[name], grad, rtol=1e-10, atol=1e-12, msg=name)


class MyHead(BaseModule):
    """The example of ``afan_mm/session.py``, as it stands there."""

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


@pytest.mark.parametrize('detach', (True, False))
def test_example_of_the_docstring(detach):
    """Its gradients are those of the formula with batch moments, and it learns."""
    model, data = head_host(moments='batch', detach=detach), batch()
    ours = gradients(model, data)
    feature = torch.tanh(model.front(data['x']))
    clean = F.cross_entropy(model.head.classifier(feature), data['y'])
    direction = torch.autograd.grad(clean, feature, retain_graph=True)[0].sign()
    start = feature.detach() if detach else feature
    total = clean + sum(0.7 * F.cross_entropy(model.head.classifier(naive_mix(start, r * 0.3 * direction, 'batch')), data['y'])
                        for r in RATIOS)
    model.zero_grad()
    total.backward()
    assert_same(ours, {name: p.grad for name, p in model.named_parameters()})
    wrapper = optim_wrapper(model)
    wrapper.optimizer.param_groups[0]['lr'] = 0.1
    losses = [model.train_step(data, wrapper)['loss_cls'].item() for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]


def test_tap_returns_its_input_where_nothing_records():
    """Without a session, in evaluation, without gradients, under a stock wrapper, with no strengths, in a tail, after a failure."""
    seen, recording = [], []

    def run(model, x, y):
        feature = model.front(x)

        def tail(f):
            recording.append(is_recording())
            seen.append(tap('site', f, tail) is f)
            return dict(loss=f.square().sum())

        recording.append(is_recording())
        tapped = tap('site', feature, tail, AFANSettings(**dict(EXACT, num_strengths=model.strengths)))
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
        return dict(loss=sum(tap('twin', feature, lambda f: dict(loss=f.sum())).sum() for _ in range(2)))

    with pytest.raises(ValueError, match="'twin' was tapped twice .* name of its own"):
        gradients(host(run), batch())


@pytest.mark.parametrize('container', (tuple, list))
@pytest.mark.parametrize('detach', (True, False))
def test_levels_keep_their_container_and_are_all_perturbed(container, detach):
    kinds = []

    def loss(model, levels, y):
        return F.cross_entropy(model.classifier(model.middle(levels[0]) * levels[1]), y)

    def run(model, x, y):
        def tail(levels):
            kinds.append(type(levels))
            return dict(loss=loss(model, levels, y))

        levels = tap('levels', container([model.front(x), model.side(x)]), tail, AFANSettings(detach=detach, **EXACT))
        kinds.append(type(levels))
        return dict(loss=loss(model, levels, y))

    model, data = host(run), batch()
    ours = gradients(model, data)
    assert kinds == [container] * 3
    levels = torch.stack([model.front(data['x']), model.side(data['x'])])
    expected = formula(model, loss(model, levels, data['y']), [(levels, lambda f: loss(model, f, data['y']), detach)])
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

        return tail(tap('site', feature, tail, AFANSettings(detach=detach, **EXACT), [context, keep]), context, keep)

    model, data = host(run), batch()
    ours = gradients(model, data)
    feature, context, keep = parts(model, data['x'])
    clean = loss(model, feature, context, keep, data['y'])
    kept = context.detach() if detach else context
    assert_same(ours, formula(model, clean, [(feature, lambda f: loss(model, f, kept, keep, data['y']), detach)]))


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
    expected = formula(model, loss(model, feature, query, data['y']), [(feature, lambda f: loss(model, f, query, data['y']), False)])
    assert_same(ours[0], expected)
    assert_same(ours[1], expected)


@pytest.mark.parametrize('levels', (1, 2))
@pytest.mark.parametrize('detach', (True, False))
def test_feature_modified_in_place_after_the_site(levels, detach):
    def run(model, x, y):
        features = [model.front(x) for _ in range(levels)]
        tapped = tap('site', features, lambda f: dict(loss=f[-1].relu().sum()), AFANSettings(detach=detach, **EXACT))
        return dict(loss=F.relu(tapped[-1], inplace=True).sum())

    with pytest.raises(RuntimeError, match=r"'site': the feature was modified in place after it was tapped.*inplace=False"):
        gradients(host(run), batch())


def test_context_modified_in_place_after_the_site():
    """The tail would read another context than the clean pass did."""

    def run(model, x, y):
        context = model.side(x)
        tapped = tap('site', model.front(x), lambda f, c: dict(loss=(f * (c + 1)).sum()), AFANSettings(**EXACT), [context])
        return dict(loss=(tapped * context.add_(1)).sum())

    with pytest.raises(RuntimeError, match="'site'.*modified in place after it was tapped"):
        gradients(host(run), batch())


@pytest.mark.parametrize('losses', ({}, dict(acc=torch.ones(1))))
def test_tail_without_losses(losses):
    """Nothing to attack is an error that says so."""

    def run(model, x, y):
        return dict(loss=tap('site', model.front(x), lambda f: losses, AFANSettings(**EXACT)).sum())

    with pytest.raises(ValueError, match=r"'site': no loss depends on its feature.*the tail returned \[('acc')?\]"):
        gradients(host(run), batch())


def chain(model, x, y, detach):
    """Site 'first' lies upstream of site 'second'."""

    def second_tail(f):
        return dict(loss=F.cross_entropy(model.classifier(torch.tanh(f)), y))

    def first_tail(f):
        return second_tail(model.middle(torch.tanh(f)))

    first = tap('first', model.front(x), first_tail, AFANSettings(name='first', detach=detach[0], **EXACT))
    second = model.middle(torch.tanh(first))
    return second_tail(tap('second', second, second_tail, AFANSettings(name='second', detach=detach[1], **EXACT)))


@pytest.mark.parametrize('detach', ((True, True), (True, False), (False, True), (False, False)))
def test_directions_come_from_the_clean_loss_alone(detach):
    """The second site's passes put gradients on the first one's feature, which must not turn its direction."""
    model, data = host(lambda model, x, y: chain(model, x, y, detach)), batch(64)
    ours = gradients(model, data)

    def second_loss(f):
        return F.cross_entropy(model.classifier(torch.tanh(f)), data['y'])

    first = model.front(data['x'])
    second = model.middle(torch.tanh(first))
    clean = second_loss(second)
    assert_same(ours, formula(model, clean, [(first, lambda f: second_loss(model.middle(torch.tanh(f))), detach[0]),
                                             (second, second_loss, detach[1])]))
    # The case can tell: the second site's passes would have turned some direction of the first.
    first = model.front(data['x'])
    second = model.middle(torch.tanh(first))
    pure, = torch.autograd.grad(second_loss(second), first, retain_graph=True)
    direction, = torch.autograd.grad(second_loss(second), second, retain_graph=True)
    mixed, = torch.autograd.grad(sum(second_loss(second + r * 0.3 * direction.sign()) for r in RATIOS), first)
    assert ((pure + 0.7 * mixed).sign() != pure.sign()).any()


def test_unperturbed_passes_multiply_the_clean_gradient():
    """(1 + adv_weight * k) times that of the losses in the tail; once that of a loss outside of it."""

    def losses(model, x, y, site):
        front = torch.tanh(model.front(x))
        feature = site(model.middle(front))
        return dict(loss_tail=F.cross_entropy(model.classifier(feature), y)), dict(loss_front=front.square().mean())

    def run(model, x, y):
        settings = AFANSettings(perturbation='none', moments=None, num_strengths=3, adv_weight=0.5)
        in_tail, outside = losses(model, x, y, lambda f: tap(
            'site', f, lambda f: dict(loss_tail=F.cross_entropy(model.classifier(f), y)), settings))
        return {**in_tail, **outside}

    model, data = host(run), batch()
    ours = gradients(model, data)
    in_tail, outside = losses(model, data['x'], data['y'], lambda f: f)
    model.zero_grad()
    (2.5 * in_tail['loss_tail'] + outside['loss_front']).backward()
    assert_same(ours, {name: p.grad for name, p in model.named_parameters()})


def noisy(model, x, y, **settings):
    """A tail that draws from every global stream, at a site that draws strengths and noise."""

    def tail(f):
        f = F.dropout(f, 0.5) * (1 + np.random.rand()) * (1 + random.random())
        return dict(loss=F.cross_entropy(model.classifier(f), y))

    settings = dict(dict(perturbation='gaussian', epsilon=0.3, moments=None, num_strengths=2), **settings)
    return tail(tap('site', model.front(x), tail, AFANSettings(**settings)))


@pytest.mark.parametrize('settings', (dict(), dict(perturbation='gradient', num_steps=2, random_start=True)), ids=('noise', 'pgd'))
def test_passes_do_not_advance_the_global_random_streams(settings):
    def streams_after_a_step(kind):
        model = host(lambda model, x, y: noisy(model, x, y, **settings))
        wrapper = optim_wrapper(model, kind)
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        gradients(model, batch(), wrapper)
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    assert streams_after_a_step('AFANOptimWrapper') == streams_after_a_step('OptimWrapper')


def test_gradients_depend_on_seed_iteration_and_rank(monkeypatch):
    """Nothing else: not on the global streams, nor on how the iteration was reached."""
    model = host(lambda model, x, y: noisy(model, x, y))

    def step(seed=0, iteration=0, rank=0, stream=3):
        monkeypatch.setattr(wrapper_module, 'get_rank', lambda: rank)
        wrapper = optim_wrapper(model, afan_seed=seed)
        wrapper.initialize_count_status(model, iteration, 100)  # what the Runner does when it resumes
        torch.manual_seed(stream), np.random.seed(stream), random.seed(stream)
        # The clean dropout follows the global stream, and is no concern here: what A-FAN added.
        stock = gradients(model, batch(), optim_wrapper(model, 'OptimWrapper'))
        torch.manual_seed(stream), np.random.seed(stream), random.seed(stream)
        ours = gradients(model, batch(), wrapper)
        return torch.cat([(ours[name] - stock[name]).flatten() for name in ('front.weight', 'classifier.weight')]), wrapper

    first, wrapper = step()
    torch.testing.assert_close(step(stream=4)[0], first)
    others = [step(seed=1)[0], step(iteration=1)[0], step(rank=1)[0], step(seed=1, iteration=1, rank=1)[0]]
    for index, one in enumerate([first, *others]):
        assert not any(torch.allclose(one, other) for other in [first, *others][:index])
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    reached = gradients(model, batch(), wrapper)  # its second step
    fresh = optim_wrapper(model)
    fresh.initialize_count_status(model, 1, 100)
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    assert_same(gradients(model, batch(), fresh), reached)


@pytest.mark.parametrize('bn_stats', ('clean', 'all'))
@pytest.mark.parametrize('detach', (True, False))
def test_a_non_finite_direction_stays_at_its_site(detach, bn_stats):
    """The broken site counts nothing, the other trains as the formula says, and no batch norm or parameter turns non-finite."""
    settings = dict(EXACT, detach=detach, bn_stats=bn_stats)

    def broken_loss(model, f):  # finite, with a gradient of 0 * inf = nan at f, and a finite one at norm and middle
        return model.middle(model.norm(f)).square().mean() + (0 * f).sqrt().sum()

    def good_loss(model, f, y):
        return F.cross_entropy(model.classifier(f), y)

    def run(model, x, y):
        def broken_tail(f):
            return dict(loss_broken=broken_loss(model, f))

        def good_tail(f):
            return dict(loss_good=good_loss(model, f, y))

        broken = tap('broken', torch.cat([x, x[:, :2]], 1), broken_tail, AFANSettings(name='broken', **settings))
        good = tap('good', model.front(x), good_tail, AFANSettings(name='good', **settings))
        return {**broken_tail(broken), **good_tail(good)}

    model, data = host(run), batch()
    wrapper = optim_wrapper(model)
    ours = gradients(model, data, wrapper)
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    good = model.front(data['x'])
    expected = formula(model, good_loss(model, good, data['y']), [(good, lambda f: good_loss(model, f, data['y']), detach)])
    model.zero_grad()
    broken_loss(model, torch.cat([data['x'], data['x'][:, :2]], 1)).backward()
    for part in (model.middle, model.norm):
        for name, parameter in part.named_parameters():
            expected[('middle.' if part is model.middle else 'norm.') + name] = parameter.grad.clone()
    assert_same(ours, expected)
    assert wrapper.health.report() == {'broken/nonfinite_share': 1.0, 'good/nonfinite_share': 0.0}
    before = copy.deepcopy(model.state_dict())
    model.train_step(data, wrapper)
    assert all(value.isfinite().all() for value in model.state_dict().values()) and wrapper.num_skipped_updates == 0
    assert not torch.equal(model.front.weight, before['front.weight'])


@pytest.mark.parametrize('detach', (True, False))
def test_a_direction_that_breaks_in_an_attack_pass_adds_nothing(detach):
    """The second step of PGD meets the root of a negative number; what is left is the stock step."""

    def run(model, x, y):
        def tail(f):
            return dict(loss=-(f * model.side.bias.exp()).sqrt().sum())

        feature = 0.2 * model.front(x).sigmoid()
        return tail(tap('site', feature, tail, AFANSettings(detach=detach, num_steps=2, **EXACT)))

    model = host(run)
    wrapper = optim_wrapper(model)
    assert_same(gradients(model, batch(), wrapper), gradients(model, batch(), optim_wrapper(model, 'OptimWrapper')))
    assert wrapper.health.report() == {'site/nonfinite_share': 1.0}


@pytest.mark.parametrize('detach', (True, False))
def test_no_tensor_survives_a_step(detach):
    """Features, contexts and tails are gone by reference counting alone, and the model can be copied."""
    alive = []

    def run(model, x, y):
        feature, context = model.front(x), model.side(x)

        def tail(feature, context):
            alive.extend([weakref.ref(feature), weakref.ref(context)])
            return dict(loss=F.cross_entropy(model.classifier(feature * context), y))

        tapped = tap('site', feature, tail, AFANSettings(**dict(EXACT, detach=detach, num_steps=2)), [context])
        alive.extend(map(weakref.ref, (feature, context, tail, tapped)))
        return tail(tapped, context)

    model = host(run)
    wrapper = optim_wrapper(model)
    gc.disable()
    try:
        model.train_step(batch(), wrapper)
        assert len(alive) == 6 + 3 * 2 and [ref() for ref in alive] == [None] * len(alive)
    finally:
        gc.enable()
    copied = copy.deepcopy(model)
    assert_same(gradients(copied, batch(), optim_wrapper(copied)), gradients(model, batch(), optim_wrapper(model)))
