"""The passes of a step on a user's own model: directions, random streams, non-finite directions,
and what is left behind.
"""

import copy
import gc
import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef

from afan_mm import AFANSettings, tap
from afan_mm.attack import pgd
from afan_mm.engine import optim_wrapper as wrapper_module
from afan_mm.norms import Linf
from afan_mm.session import Session
from support.tiny import gradients, optim_wrapper
from support.toy import EXACT, RATIOS, assert_same, batch, formula, host


def chain(model, x, y, detach=(False, False), **changes):
    """Site 'first' lies upstream of site 'second'."""

    def second_tail(f):
        return dict(loss=F.cross_entropy(model.classifier(torch.tanh(f)), y))

    def first_tail(f):
        return second_tail(model.middle(torch.tanh(f)))

    afan = [
        AFANSettings(name=name, detach=each, **dict(EXACT, **changes))
        for name, each in zip(('first', 'second'), detach)
    ]
    first = tap('first', model.front(x), first_tail, afan[0])
    second = model.middle(torch.tanh(first))
    return second_tail(tap('second', second, second_tail, afan[1]))


@pytest.mark.parametrize('perturbation', ('gradient', 'gaussian', 'none'))
def test_a_backward_of_its_own_for_directions_alone(perturbation, monkeypatch):
    """Noise and the control need none; the control is then the clean gradient, once for each
    pass.
    """
    searches, find = [], Session.find_gradients

    def spy(self, loss):
        searches.append(self)
        find(self, loss)

    monkeypatch.setattr(Session, 'find_gradients', spy)
    model, data = host(lambda model, x, y: chain(model, x, y, perturbation=perturbation)), batch()
    ours = gradients(model, data)
    assert len(searches) == (perturbation == 'gradient')
    if perturbation == 'none':
        clean = gradients(host(lambda model, x, y: chain(model, x, y, num_strengths=0)), data)
        passes = 1 + 2 * len(RATIOS) * EXACT['adv_weight']
        assert_same(ours, {k: None if g is None else passes * g for k, g in clean.items()})


@pytest.mark.parametrize('due', (False, True), ids=('unmeasured', 'measured'))
@pytest.mark.parametrize('moments', (None, 'batch'))
@pytest.mark.parametrize('num_strengths', (1, 2))
def test_what_the_passes_need_no_more_is_let_go_of(num_strengths, moments, due):
    """In the last pass the clean feature, where neither its moments nor a measurement needs it; its
    gradient is that of the formula either way (see the tests of contracts).
    """
    clean, held = [], []

    def run(model, x, y):
        def tail(f):
            held.append(not clean[0].expired())
            return dict(loss=F.cross_entropy(model.classifier(torch.tanh(f)), y))

        feature = model.front(x)
        clean.append(StorageWeakRef(feature.untyped_storage()))
        afan = AFANSettings(**dict(EXACT, num_strengths=num_strengths, moments=moments))
        return tail(tap('site', feature, tail, afan))

    model = host(run)
    wrapper = optim_wrapper(model)
    wrapper.health.due = due
    model.train_step(batch(), wrapper)
    needed = moments is not None or due
    assert held[1 : 1 + num_strengths] == [True] * (num_strengths - 1) + [needed]


def test_the_attack_lets_go_of_one_gradient_after_the_other():
    """Of each once its delta is known, the last level's first."""
    alive = []

    class Watching(Linf):
        def step(self, gradient, length):
            alive.append([not each.expired() for each in storages])
            return super().step(gradient, length)

    grads = [torch.randn(2, 3) for _ in range(3)]
    expected = [0.1 * grad.sign() for grad in grads]
    storages = [StorageWeakRef(grad.untyped_storage()) for grad in grads]
    handed_over = (grads.pop(0) for _ in range(3))
    features = [torch.zeros(2, 3)] * 3
    found = pgd(features, None, [0.1] * 3, [0.1] * 3, 1, False, handed_over, norms=[Watching()] * 3)
    assert alive == [[True] * 3, [True, True, False], [True, False, False]]
    assert all(map(torch.equal, found.deltas, expected))


@pytest.mark.parametrize('detach', ((True, True), (True, False), (False, True), (False, False)))
def test_directions_come_from_the_clean_loss_alone(detach):
    """The second site's passes put gradients on the first one's feature, which must not turn its
    direction.
    """
    model, data = host(lambda model, x, y: chain(model, x, y, detach)), batch(64)
    ours = gradients(model, data)

    def second_loss(f):
        return F.cross_entropy(model.classifier(torch.tanh(f)), data['y'])

    first = model.front(data['x'])
    second = model.middle(torch.tanh(first))
    clean = second_loss(second)
    assert_same(
        ours,
        formula(
            model,
            clean,
            [
                (first, lambda f: second_loss(model.middle(torch.tanh(f))), detach[0]),
                (second, second_loss, detach[1]),
            ],
        ),
    )
    # The case can tell: the second site's passes would have turned some direction of the first.
    first = model.front(data['x'])
    second = model.middle(torch.tanh(first))
    (pure,) = torch.autograd.grad(second_loss(second), first, retain_graph=True)
    (direction,) = torch.autograd.grad(second_loss(second), second, retain_graph=True)
    (mixed,) = torch.autograd.grad(
        sum(second_loss(second + r * 0.3 * direction.sign()) for r in RATIOS), first
    )
    assert ((pure + 0.7 * mixed).sign() != pure.sign()).any()


def test_unperturbed_passes_multiply_the_clean_gradient():
    """(1 + adv_weight * k) times that of the losses in the tail; once that of a loss outside of
    it.
    """

    def losses(model, x, y, site):
        front = torch.tanh(model.front(x))
        feature = site(model.middle(front))
        return dict(loss_tail=F.cross_entropy(model.classifier(feature), y)), dict(
            loss_front=front.square().mean()
        )

    def run(model, x, y):
        settings = AFANSettings(perturbation='none', moments=None, num_strengths=3, adv_weight=0.5)
        in_tail, outside = losses(
            model,
            x,
            y,
            lambda f: tap(
                'site',
                f,
                lambda f: dict(loss_tail=F.cross_entropy(model.classifier(f), y)),
                settings,
            ),
        )
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

    settings = dict(
        dict(perturbation='gaussian', epsilon=0.3, moments=None, num_strengths=2), **settings
    )
    return tail(tap('site', model.front(x), tail, AFANSettings(**settings)))


@pytest.mark.parametrize(
    'settings',
    (dict(), dict(perturbation='gradient', num_steps=2, random_start=True)),
    ids=('noise', 'pgd'),
)
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
        # what the Runner does when it resumes
        wrapper.initialize_count_status(model, iteration, 100)
        torch.manual_seed(stream), np.random.seed(stream), random.seed(stream)
        # The clean dropout follows the global stream, and is no concern here: what A-FAN added.
        stock = gradients(model, batch(), optim_wrapper(model, 'OptimWrapper'))
        torch.manual_seed(stream), np.random.seed(stream), random.seed(stream)
        ours = gradients(model, batch(), wrapper)
        return torch.cat(
            [(ours[name] - stock[name]).flatten() for name in ('front.weight', 'classifier.weight')]
        ), wrapper

    first, wrapper = step()
    torch.testing.assert_close(step(stream=4)[0], first)
    others = [
        step(seed=1)[0],
        step(iteration=1)[0],
        step(rank=1)[0],
        step(seed=1, iteration=1, rank=1)[0],
    ]
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
    """The broken site counts nothing, the other trains as the formula says, and no batch norm or
    parameter turns non-finite.
    """
    settings = dict(EXACT, detach=detach, bn_stats=bn_stats)

    # finite, with a gradient of 0 * inf = nan at f, and a finite one at norm and middle
    def broken_loss(model, f):
        return model.middle(model.norm(f)).square().mean() + (0 * f).sqrt().sum()

    def good_loss(model, f, y):
        return F.cross_entropy(model.classifier(f), y)

    def run(model, x, y):
        def broken_tail(f):
            return dict(loss_broken=broken_loss(model, f))

        def good_tail(f):
            return dict(loss_good=good_loss(model, f, y))

        broken = tap(
            'broken',
            torch.cat([x, x[:, :2]], 1),
            broken_tail,
            AFANSettings(name='broken', **settings),
        )
        good = tap('good', model.front(x), good_tail, AFANSettings(name='good', **settings))
        return {**broken_tail(broken), **good_tail(good)}

    model, data = host(run), batch()
    wrapper = optim_wrapper(model)
    ours = gradients(model, data, wrapper)
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    good = model.front(data['x'])
    expected = formula(
        model,
        good_loss(model, good, data['y']),
        [(good, lambda f: good_loss(model, f, data['y']), detach)],
    )
    model.zero_grad()
    broken_loss(model, torch.cat([data['x'], data['x'][:, :2]], 1)).backward()
    for part in (model.middle, model.norm):
        for name, parameter in part.named_parameters():
            expected[('middle.' if part is model.middle else 'norm.') + name] = (
                parameter.grad.clone()
            )
    assert_same(ours, expected)
    assert wrapper.health.report() == {'broken/nonfinite_share': 1.0, 'good/nonfinite_share': 0.0}
    before = copy.deepcopy(model.state_dict())
    model.train_step(data, wrapper)
    assert (
        all(value.isfinite().all() for value in model.state_dict().values())
        and wrapper.num_void_updates == 0
    )
    assert not torch.equal(model.front.weight, before['front.weight'])


@pytest.mark.parametrize('detach', (True, False))
def test_a_direction_that_breaks_in_an_attack_pass_adds_nothing(detach):
    """The second step of PGD meets the root of a negative number; what is left is the stock
    step.
    """

    def run(model, x, y):
        def tail(f):
            return dict(loss=-(f * model.side.bias.exp()).sqrt().sum())

        feature = 0.2 * model.front(x).sigmoid()
        return tail(tap('site', feature, tail, AFANSettings(detach=detach, num_steps=2, **EXACT)))

    model = host(run)
    wrapper = optim_wrapper(model)
    assert_same(
        gradients(model, batch(), wrapper),
        gradients(model, batch(), optim_wrapper(model, 'OptimWrapper')),
    )
    assert wrapper.health.report() == {'site/nonfinite_share': 1.0}


@pytest.mark.parametrize('detach', (True, False))
def test_no_tensor_survives_a_step(detach):
    """Features, contexts and tails are gone by reference counting alone, and the model can be
    copied.
    """
    alive = []

    def run(model, x, y):
        feature, context = model.front(x), model.side(x)

        def tail(feature, context):
            alive.extend([weakref.ref(feature), weakref.ref(context)])
            return dict(loss=F.cross_entropy(model.classifier(feature * context), y))

        tapped = tap(
            'site',
            feature,
            tail,
            AFANSettings(**dict(EXACT, detach=detach, num_steps=2)),
            [context],
        )
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
    assert_same(
        gradients(copied, batch(), optim_wrapper(copied)),
        gradients(model, batch(), optim_wrapper(model)),
    )


@pytest.mark.parametrize('joint', (False, True))
def test_no_delta_is_kept_once_it_is_on_the_last_feature(joint, monkeypatch):
    """Each is as large as the feature, and the tail's activations come on top."""
    deltas, left = [], []
    direction = Session.direction

    def watched(self, site):
        found = direction(self, site)
        deltas[:] = map(weakref.ref, found.deltas)
        return found

    def losses(model, x, y):
        def last_tail(f):
            left.append(sum(ref() is not None for ref in deltas))
            return dict(loss=F.cross_entropy(model.classifier(f), y))

        def tail(f):
            f = model.middle(torch.tanh(f))
            return last_tail(tap('last', f, last_tail, settings['last']) if joint else f)

        return tail(tap('first', model.front(x), tail, settings['first']))

    given = dict(epsilon=0.1, num_strengths=3, moments=None, joint=joint)
    settings = {name: AFANSettings(name=name, **given) for name in ('first', 'last')}
    monkeypatch.setattr(Session, 'direction', watched)
    gradients(host(losses), batch(8))
    number = 2 if joint else 1
    assert left == [0, number, number, 0]  # the clean pass, and one for each strength
