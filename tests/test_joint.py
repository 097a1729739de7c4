"""Sites perturbed together on a user's own model, against explicit graphs in float64."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from afan_mm import AFANSettings, draws, tap
from support.exact import EPSILON, assert_same
from support.joint import joint_gradients
from support.tiny import gradients, optim_wrapper, random_streams
from support.toy import batch, host

SETTINGS = dict(
    epsilon=EPSILON, moments=None, num_strengths=2, strengths='linspace', adv_weight=0.7, joint=True
)
ALL = ('first', 'second', 'third')


def layers(model, feature, y, at):
    """Everything after the first site; ``at`` is told of the later ones."""
    feature = at('second', model.middle(torch.tanh(feature)))
    feature = at('third', model.norm(torch.tanh(feature)))
    return F.cross_entropy(model.classifier(feature), y)


def no_tail(feature):
    raise AssertionError('a later joint site has no pass of its own')


def joint_host(sites=ALL, each=None, **settings):
    """A host with these sites; ``each`` has settings of single ones."""
    afan = {
        name: AFANSettings(name=name, **{**SETTINGS, **settings, **(each or {}).get(name, {})})
        for name in sites
    }

    def run(model, x, y):
        def last_tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        def at(name, feature):
            if name not in afan:
                return feature
            tail = no_tail if afan[name].joint else last_tail
            return tap(name, feature, tail, afan[name])

        def tail(feature):
            return dict(loss=layers(model, feature, y, at))

        first = model.front(x)
        return tail(tap('first', first, tail, afan['first']) if 'first' in afan else first)

    return host(run)


def expected(model, data, sites=ALL, **options):
    model = copy.deepcopy(model)
    features = dict(first=model.front(data['x']))

    def keep(name, feature):
        features[name] = feature
        return feature

    clean = layers(model, features['first'], data['y'], keep)
    return joint_gradients(
        model,
        clean,
        {name: features[name] for name in sites},
        lambda feature, at: layers(model, feature, data['y'], at),
        **options,
    )


@pytest.mark.parametrize('sites', (('first', 'second'), ('first', 'third'), ALL), ids='+'.join)
@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize('kind', (None, 'batch'), ids=str)
@pytest.mark.parametrize('num_steps, step_size', ((1, EPSILON), (3, 0.2)))
def test_step_equals_the_formula(sites, detach, kind, num_steps, step_size):
    model, data = (
        joint_host(sites, detach=detach, moments=kind, num_steps=num_steps, step_size=step_size),
        batch(),
    )
    reference = expected(
        model,
        data,
        sites,
        detach=detach,
        kind=kind,
        num_steps=num_steps,
        step_size=step_size,
    )
    assert_same(gradients(model, data), reference)


def test_the_reference_is_sensitive():
    """It would notice a site without its delta, one more strength and another moment."""
    model, data = joint_host(), batch()
    right = expected(model, data)
    for wrong in (
        dict(sites=ALL[:2]),
        dict(strengths=(1.0,)),
        dict(kind='batch'),
        dict(detach=True),
        dict(num_steps=3, step_size=0.2),
    ):
        with pytest.raises(AssertionError):
            assert_same(expected(model, data, **wrong), right)


def test_one_joint_site_is_an_ordinary_one():
    data = batch()
    assert_same(
        gradients(joint_host(('first',)), data),
        gradients(joint_host(('first',), joint=False), data),
    )


@pytest.mark.parametrize('estimator', ('per_sample', 'single', 'sum'))
@pytest.mark.parametrize('kind', (None, 'instance'), ids=str)
def test_sites_share_their_strengths(estimator, kind, monkeypatch):
    """One value, or one for each sample, drawn once for all sites of a pass."""
    drawn, draw = [], draws.draw

    def recorded(*args):
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(draws, 'draw', recorded)
    model, data = joint_host(estimator=estimator, strengths='uniform', moments=kind), batch()
    ours = gradients(model, data)
    assert len(drawn) == 3
    values = [[torch.as_tensor(s.value) for s in site] for site in drawn]
    for site in values[1:]:
        assert all(torch.equal(*pair) for pair in zip(site, values[0]))
    assert values[0][0].numel() == (8 if estimator == 'per_sample' else 1)
    weight = drawn[0][0].weight
    assert weight == (1 if estimator == 'sum' else 2)
    reference = expected(model, data, strengths=values[0], adv_weight=0.7 * weight, kind=kind)
    # strengths are float32
    for name, grad in reference.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize('own', (True, False), ids=('own-detached', 'own-attached'))
@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
def test_beside_a_site_with_passes_of_its_own(detach, own):
    """All directions are the clean loss's, so what the group adds and what the site adds add up."""
    data, alone = batch(), dict(third=dict(joint=False, detach=own))
    both = joint_host(ALL, alone, detach=detach)
    stock = gradients(both, data, optim_wrapper(both, 'OptimWrapper'))
    group = gradients(joint_host(('first', 'second'), detach=detach), data)
    site = gradients(joint_host(('third',), alone), data)
    added = {
        name: None if clean is None else group[name] + site[name] - clean
        for name, clean in stock.items()
    }
    assert_same(gradients(both, data), added)


def test_interval_and_inactive_sites():
    """A group sits out iterations together; a site that is off belongs to no group."""
    data = batch()
    model = joint_host(ALL, dict(second=dict(num_strengths=0)), interval=2)
    wrapper = optim_wrapper(model)
    reference = expected(model, data, ('first', 'third'), adv_weight=1.4)
    assert_same(gradients(model, data, wrapper), reference)
    stock = gradients(model, data, optim_wrapper(model, 'OptimWrapper'))
    assert_same(gradients(model, data, wrapper), stock)


def test_accumulated_steps_have_the_mean_gradient():
    parts = [batch(seed=1), batch(seed=2)]
    model = joint_host(moments='batch')
    wrapper = optim_wrapper(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 2)
    model.zero_grad()
    for data in parts:
        with wrapper.optim_context(model):
            losses = model(**data)
        wrapper.backward(wrapper.scale_loss(model.parse_losses(losses)[0]))
    ours = {name: p.grad for name, p in model.named_parameters()}
    each = [expected(model, data, kind='batch') for data in parts]
    mean = {name: None if g is None else (g + each[1][name]) / 2 for name, g in each[0].items()}
    assert_same(ours, mean)


def test_a_direction_that_is_not_finite_anywhere_voids_the_pass():
    """Its second site has a gradient of 0 * inf; what is left is the clean step."""

    def run(model, x, y):
        settings = [AFANSettings(name=name, **SETTINGS) for name in ALL[:2]]

        def tail(feature):
            later = tap('second', torch.tanh(feature), no_tail, settings[1])
            return dict(loss=(0 * later).sqrt().sum() + model.classifier(later.detach()).sum())

        return tail(tap('first', model.front(x), tail, settings[0]))

    model = host(run)
    wrapper = optim_wrapper(model)
    ours = gradients(model, batch(), wrapper)
    stock = gradients(model, batch(), optim_wrapper(model, 'OptimWrapper'))
    assert_same(
        {n: g for n, g in ours.items() if n.startswith('class')},
        {n: g for n, g in stock.items() if n.startswith('class')},
    )
    report = wrapper.health.report()
    assert report == {'first/nonfinite_share': 1.0, 'second/nonfinite_share': 1.0}


def test_figures_of_each_site():
    """Length and reach of each delta are the site's own; the loss is that of their common pass."""
    model, data = joint_host(each=dict(second=dict(epsilon=0.1))), batch()
    wrapper = optim_wrapper(model)
    wrapper.health.due = True
    gradients(model, data, wrapper)
    report = wrapper.health.report()
    lengths = dict(first=0.3, second=0.1, third=0.3)
    for name in ALL:
        assert report[f'{name}/delta_norm'] == pytest.approx(lengths[name] * (8 * 6) ** 0.5)
        assert report[f'{name}/mix_ratio'] == pytest.approx(1)
        assert report[f'{name}/zero_share'] == 0
        assert report[f'{name}/gain'] == report['first/gain'] > 0
        assert report[f'{name}/objective'] == report['first/objective']
    # the control meets the clean loss again
    control = joint_host(perturbation='none')
    wrapper = optim_wrapper(control)
    wrapper.health.due = True
    gradients(control, data, wrapper)
    report = wrapper.health.report()
    assert [report[f'{name}/gain'] for name in ALL] == [0, 0, 0]


@pytest.mark.parametrize(
    'key, value',
    (
        ('num_strengths', 1),
        ('strengths', 'uniform'),
        ('estimator', 'single'),
        ('interval', 2),
        ('adv_weight', 0.1),
        ('perturbation', 'none'),
        ('num_steps', 2),
        ('random_start', True),
        ('detach', True),
        ('bn_stats', 'all'),
        ('draws', 'clean'),
        ('objective', 'consistency'),
    ),
)
def test_sites_that_do_not_agree_are_refused(key, value):
    model = joint_host(each=dict(third={key: value}))
    with pytest.raises(ValueError, match=f"^{key} must be the same .*{value!r} at 'third'"):
        gradients(model, batch())


def test_a_site_that_the_pass_does_not_reach_is_named():
    def run(model, x, y):
        settings = [AFANSettings(name=name, **SETTINGS) for name in ALL[:2]]

        def tail(feature):
            return dict(loss_main=F.cross_entropy(model.classifier(feature), y))

        first = tap('first', model.front(x), tail, settings[0])
        side = tap('second', model.side(x), no_tail, settings[1])
        return dict(tail(first), loss_side=side.square().mean())

    with pytest.raises(RuntimeError, match=r"\['second'\] have joint=True.*'first'.*joint=False"):
        gradients(host(run), batch())


def test_another_shape_in_the_pass_is_refused():
    counts = iter((8, 7))

    def run(model, x, y):
        settings = [AFANSettings(name=name, **SETTINGS) for name in ALL[:2]]

        def tail(feature):
            later = tap('second', feature[: next(counts)], no_tail, settings[1])
            return dict(loss=later.square().mean())

        return tail(tap('first', model.front(x), tail, settings[0]))

    with pytest.raises(RuntimeError, match=r"'second'.*\(7, 6\).*\(8, 6\)"):
        gradients(host(run), batch())


@pytest.mark.parametrize('detach', (True, False))
def test_nothing_is_left_behind(detach):
    """Features are gone by reference counting alone; buffers and random streams are those of the
    stock step; the model can be copied.
    """
    alive, model = [], joint_host(moments='batch', detach=detach, num_steps=2)
    model.norm.register_forward_pre_hook(lambda module, args: alive.append(weakref.ref(args[0])))
    wrapper = optim_wrapper(model)
    gc.disable()
    try:
        model.train_step(batch(), wrapper)
        assert len(alive) == 4 and not any(ref() is not None for ref in alive)
    finally:
        gc.enable()
    copied = copy.deepcopy(model)
    assert_same(gradients(copied, batch()), gradients(model, batch()))

    states = []
    for kind in ('OptimWrapper', 'AFANOptimWrapper'):
        model = joint_host(moments='batch', detach=detach, num_steps=2)
        torch.manual_seed(5)
        gradients(model, batch(), optim_wrapper(model, kind))
        states.append((dict(model.named_buffers()), random_streams()))
    for first, second in zip(*states):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[key])), key


@pytest.mark.parametrize('third', (dict(joint=False, adv_weight=0.1), dict(num_strengths=0)))
def test_clean_weight_is_the_complement(third):
    """What the adversarial weights leave of one: a group counts once, a site that is off does
    not, and one with an interval has its mean.
    """
    each = dict(third=third)
    model, data = joint_host(ALL, each, adv_weight=0.15, interval=2), batch()
    model.afan = [
        AFANSettings(name=name, **{**SETTINGS, 'adv_weight': 0.15, **each.get(name, {})})
        for name in ALL
    ]
    wrapper = optim_wrapper(model, clean_weight='complement')
    clean = 0.7 - (0.2 if 'adv_weight' in third else 0)
    reference = gradients(model, data, optim_wrapper(model, clean_weight=clean))
    assert_same(gradients(model, data, wrapper), reference)
    assert wrapper.clean_weight == pytest.approx(clean)
    stock = gradients(model, data, optim_wrapper(model, 'OptimWrapper'))
    if 'adv_weight' not in third:  # the second step has no pass, and the clean loss its weight
        second = gradients(model, data, wrapper)
        assert_same(second, {n: None if g is None else clean * g for n, g in stock.items()})


def test_weights_that_leave_nothing_are_refused():
    model = joint_host(adv_weight=0.5)
    model.afan = AFANSettings(name='first', **{**SETTINGS, 'adv_weight': 0.5})
    wrapper = optim_wrapper(model, clean_weight='complement')
    with pytest.raises(ValueError, match='sum to less than 1, but .* is 1; lower'):
        gradients(model, batch(), wrapper)
    with pytest.raises(ValueError, match="clean_weight must be .*'complement', but got 'rest'"):
        optim_wrapper(model, clean_weight='rest')


@pytest.mark.parametrize('num_steps', (1, 2))
def test_a_later_site_inside_a_checkpoint_is_refused(num_steps):
    """Its layers run again in the pass's backward, and would do so unperturbed."""
    afan = {
        name: AFANSettings(name=name, num_steps=num_steps, **SETTINGS)
        for name in ('first', 'second')
    }

    def run(model, x, y):
        def inner(feature):
            feature = tap('second', model.middle(torch.tanh(feature)), no_tail, afan['second'])
            return model.classifier(torch.tanh(feature))

        def tail(feature):
            logits = checkpoint(inner, feature, use_reentrant=False)
            return dict(loss=F.cross_entropy(logits, y))

        return tail(tap('first', model.front(x), tail, afan['first']))

    with pytest.raises(RuntimeError, match="site 'second' has joint=True and is inside activation"):
        gradients(host(run), batch())
