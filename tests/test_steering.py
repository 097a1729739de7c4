"""``target_gain``: epsilon finds its own size, the same on all ranks, and is resumed."""

import math

import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, steering, tap
from afan_mm.auxiliary_norms import add_auxiliary_norms
from afan_mm.steering import Steering
from support.exact import assert_same
from support.tiny import (
    build,
    gradients,
    optim_wrapper,
    segmentation_batch,
    segmentor_config,
    train,
    with_afan,
)
from support.toy import batch, host

SETTINGS = dict(epsilon=0.01, moments=None, num_strengths=1, strengths='linspace', target_gain=0.2)


def steered_host(**settings):
    afan = AFANSettings(**{**SETTINGS, **settings})

    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        return tail(tap('afan', model.front(x), tail, afan))

    return host(run)


def gain_of(model, data, epsilon):
    """The loss's rise under the sign of its gradient, on explicit graphs."""
    feature = model.front(data['x']).detach().requires_grad_()
    clean = F.cross_entropy(model.classifier(feature), data['y'])
    (grad,) = torch.autograd.grad(clean, feature)
    moved = F.cross_entropy(model.classifier(feature + epsilon * grad.sign()), data['y'])
    return float((moved - clean).detach())


def test_one_step_by_hand():
    """log(factor) moves by a tenth of the relative error, at most by 0.2."""
    settings, controller = AFANSettings(**SETTINGS), Steering()
    like, logs = torch.zeros(()), []
    for gain in (0.1, 0.2, 0.3, -5.0, math.nan, math.inf):
        controller.update(settings, torch.tensor(gain))
        logs.append(float(controller.factor(settings, like).log()))
    assert logs == pytest.approx([0.05, 0.05, 0.0, 0.2, 0.2, 0.2], abs=1e-6)
    for _ in range(60):
        controller.update(settings, torch.tensor(-5.0))
    assert float(controller.factor(settings, like)) == pytest.approx(1e4)


def test_the_factor_multiplies_epsilon():
    """The first step has the site's own epsilon, the next what the first one's gain made of it."""
    model, data = steered_host(), batch()
    wrapper, factor = optim_wrapper(model), 1.0
    for _ in range(3):
        fixed = steered_host(target_gain=None, epsilon=0.01 * factor)
        assert_same(gradients(model, data, wrapper), gradients(fixed, data))
        gain = gain_of(model, data, 0.01 * factor)
        factor *= math.exp(max(-0.2, min(0.2, 0.1 * (0.2 - gain) / 0.2)))
        found = wrapper.steering.factor(AFANSettings(), torch.zeros(()))
        assert float(found) == pytest.approx(factor, rel=1e-6)
        # so that the fixed one starts from the very number
        factor = float(found)


def test_the_gain_arrives_at_its_target():
    model, data = steered_host(), batch()
    wrapper = optim_wrapper(model)
    wrapper.optimizer.param_groups[0]['lr'] = 0
    wrapper.health.due = True
    for _ in range(120):
        train(model, wrapper, [data])
        report = wrapper.health.report()
    assert report['afan/gain'] == pytest.approx(0.2, rel=0.02)
    epsilon = 0.01 * report['afan/epsilon_factor']
    assert gain_of(model, data, epsilon) == pytest.approx(0.2, rel=0.02)


def test_what_a_component_knows_of_the_clean_pass_is_the_tail_of_a_user():
    """Its clean losses need no further run: the same factor as from a measured gain."""
    config = with_afan(segmentor_config(), head=dict(SETTINGS, site='classifier'))
    model = build(config)
    wrapper = optim_wrapper(model)
    wrapper.health.due = True
    gradients(model, segmentation_batch(), wrapper)
    report = wrapper.health.report()
    step = 0.1 * (0.2 - report['decode_head/gain']) / 0.2
    assert math.log(report['decode_head/epsilon_factor']) == pytest.approx(step, rel=1e-4)


@pytest.mark.parametrize(
    ('unit', 'epsilon', 'most'), [('norm', 0.1, 5), ('norm', 0.4, 1.25), ('norm', 2.0, 1)]
)
def test_no_perturbation_is_steered_beyond_half_of_the_feature(unit, epsilon, most):
    settings = AFANSettings(
        **dict(SETTINGS, norm='l2', epsilon_unit=unit, epsilon=epsilon, target_gain=1e6)
    )
    controller = Steering()
    for steps in range(40):
        assert controller.is_at_limit('afan') == (
            steps > 0 and math.exp(0.1 * steps) >= 0.99 * most
        )
        controller.update(settings, torch.tensor(0.0))
    assert float(controller.factor(settings, torch.zeros(()))) == pytest.approx(most)


def test_other_units_know_no_such_half():
    settings = AFANSettings(**dict(SETTINGS, epsilon=2.0))
    controller = Steering()
    for _ in range(200):
        controller.update(settings, torch.tensor(0.0))
    assert float(controller.factor(settings, torch.zeros(()))) == pytest.approx(1e4)
    assert controller.is_at_limit('afan')


def test_warming_up_leaves_the_factor():
    model = steered_host()
    wrapper = optim_wrapper(model)
    wrapper.epsilon_scale = 0.5
    gradients(model, batch(), wrapper)
    assert float(wrapper.steering.factor(AFANSettings(), torch.zeros(()))) == 1


def test_ranks_share_the_mean_gain(monkeypatch):
    def mean(tensor, op):
        assert op == 'mean'
        tensor.copy_((tensor + 0.3) / 2)  # the other rank measured 0.3

    monkeypatch.setattr(steering, 'all_reduce', mean)
    controller, settings = Steering(), AFANSettings(**SETTINGS)
    controller.update(settings, torch.tensor(0.1))
    assert float(controller.factor(settings, torch.zeros(()))) == pytest.approx(1)


@pytest.mark.parametrize('late_is_read', (True, False))
def test_ranks_average_the_sites_in_one_order(late_is_read, monkeypatch):
    """That of their names, whether a rank's loss reads a site, whose passes then run at its gate,
    or not.
    """
    afan = {name: AFANSettings(name=name, **SETTINGS) for name in ('early', 'late')}

    def run(model, x, y):
        def last(feature):
            return dict(loss_late=F.cross_entropy(model.classifier(feature), y))

        def tail(feature):
            loss = F.cross_entropy(model.classifier(feature), y)
            late = tap('late', model.middle(feature), last, afan['late'])
            return dict(loss_early=loss, **(last(late) if late_is_read else {}))

        return tail(tap('early', model.front(x), tail, afan['early']))

    order, update = [], Steering.update

    def spy(self, settings, gain):
        order.append(settings.name)
        update(self, settings, gain)

    monkeypatch.setattr(Steering, 'update', spy)
    model = host(run)
    wrapper = optim_wrapper(model)
    wrapper._checked = set(afan)  # by an earlier batch, in which all were read
    gradients(model, batch(), wrapper)
    assert order == ['early', 'late']


def test_passes_with_norms_of_their_own_are_compared_with_these():
    """An auxiliary norm that triples its output does not pass for a perturbation's effect."""
    settings = dict(SETTINGS, epsilon=1e-9, bn_stats='auxiliary')
    afan = AFANSettings(**settings)

    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(model.norm(feature)), y))

        return tail(tap('afan', model.front(x), tail, afan))

    model = host(run)
    model.afan = afan
    add_auxiliary_norms(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'auxiliary' in name and name.endswith('weight'):
                parameter.mul_(3)
    wrapper = optim_wrapper(model)
    wrapper.health.due = True
    gradients(model, batch(), wrapper)
    report = wrapper.health.report()
    assert report['afan/gain'] == pytest.approx(0, abs=1e-6)
    assert math.log(report['afan/epsilon_factor']) == pytest.approx(0.1, abs=1e-6)


def test_what_is_not_perturbed_is_not_steered():
    """The control of a steered arm: no epsilon would give it a gain."""
    model = steered_host(perturbation='none')
    wrapper = optim_wrapper(model)
    gradients(model, batch(), wrapper)
    assert float(wrapper.steering.factor(AFANSettings(), torch.zeros(()))) == 1


def test_a_resumed_wrapper_goes_on():
    """And a checkpoint of either wrapper loads into the other."""
    model, data = steered_host(), batch()
    wrapper = optim_wrapper(model)
    train(model, wrapper, [data])
    state = wrapper.state_dict()
    assert set(state) - set(optim_wrapper(model, 'OptimWrapper').state_dict()) == {
        'afan_epsilon_factors'
    }
    resumed = optim_wrapper(model)
    resumed.load_state_dict(state)
    assert 'afan_epsilon_factors' in state  # the caller's, who may load it again
    resumed.initialize_count_status(model, 1, 100)
    assert_same(gradients(model, data, resumed), gradients(model, data, wrapper))
    stock = optim_wrapper(model, 'OptimWrapper')
    stock.load_state_dict(dict(state))
    optim_wrapper(model).load_state_dict(stock.state_dict())
    assert 'afan_epsilon_factors' not in optim_wrapper(steered_host(target_gain=None)).state_dict()


@pytest.mark.parametrize(
    'value, error', ((0, 'target_gain must be'), (-1, 'target_gain must be'), (True, 'target_gain'))
)
def test_targets_that_are_none(value, error):
    with pytest.raises((TypeError, ValueError), match=error):
        AFANSettings(target_gain=value)
