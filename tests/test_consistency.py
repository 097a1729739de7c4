"""``objective='consistency'``: what is compared, what is refused, and that it trains."""

import copy
import gc
import math

import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from afan_mm.consistency import Consistency, Prediction, compare, divergence, note
from afan_mm.joint import adversarial_weight, check_group, complement
from support.runs import afan_model
from support.runs import train as run
from support.tiny import (
    assert_identical,
    build,
    detection_batch,
    detector_config,
    gradients,
    optim_wrapper,
    parameters,
    random_streams,
    seed_everything,
    segmentation_batch,
    segmentor_config,
    train,
    with_afan,
)
from support.toy import EXACT, RATIOS, assert_same, batch, host

SETTINGS = dict(EXACT, objective='consistency')


def test_divergence_by_hand():
    """From one half each to three quarters and a quarter: half the logarithm of 4/3."""
    clean, logits = torch.zeros(1, 2, 3), torch.tensor([math.log(3), 0.0]).reshape(1, 2, 1)
    found = divergence(clean, logits.expand(1, 2, 3))
    torch.testing.assert_close(found, torch.full((1, 3), 0.5 * math.log(4 / 3)))
    assert torch.equal(divergence(logits, logits), torch.zeros(1, 1))
    assert divergence(clean.half(), clean.half()).dtype == torch.float32


@pytest.mark.parametrize('reduction', ('none', 'sum', 'mean'))
@pytest.mark.parametrize('weight', (None, torch.tensor([0.5, 2.0, 0.0, 1.0])), ids=str)
@pytest.mark.parametrize('soft', (False, True))
def test_a_certain_prediction_is_a_label(soft, weight, reduction):
    """The divergence from a prediction that is certain of the labels is the cross entropy: so the
    reductions, weights and ignored positions are torch's.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, generator=generator)
    labels = torch.tensor([[0, 1, 3], [2, 2, 0]])
    clean = 1e4 * F.one_hot(labels, 4).movedim(-1, 1).float()
    options = dict(weight=weight, reduction=reduction)
    if soft:
        labels = F.one_hot(labels, 4).movedim(-1, 1).float()
    else:
        labels[0, 1] = options['ignore_index'] = 255
    expected = F.cross_entropy(logits, labels, **options)
    consistency = Consistency('site')
    consistency.predictions = [Prediction(clean, labels)]
    logits.requires_grad_()
    with compare(torch.nn.Linear(1, 1), consistency) as divergences:
        given = F.cross_entropy(logits, labels, **options)
    torch.testing.assert_close(given.detach(), expected)
    torch.testing.assert_close(divergences.objective(given.sum()).detach(), expected.sum())


@pytest.mark.filterwarnings('ignore:size_average and reduce')
@pytest.mark.parametrize('reduce', (None, True, False))
@pytest.mark.parametrize('size_average', (None, True, False))
def test_arguments_by_keyword_and_what_reduction_was_once(size_average, reduce):
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    options = dict(target=torch.arange(5) % 3, size_average=size_average, reduce=reduce)
    certain = 1e4 * F.one_hot(options['target'], 3).float()
    model, consistency = torch.nn.Linear(1, 1), Consistency('site')
    with note(model, lambda: [consistency]):
        F.cross_entropy(input=certain, **options)
    with compare(model, consistency):
        given = F.cross_entropy(input=logits, **options)
    torch.testing.assert_close(given.detach(), F.cross_entropy(input=logits, **options))


def test_nothing_counts_where_all_is_ignored():
    logits, labels = torch.randn(2, 4, requires_grad=True), torch.tensor([255, 255])
    consistency = Consistency('site')
    consistency.predictions = [Prediction(logits.detach() + 1, labels)]
    with compare(torch.nn.Linear(1, 1), consistency) as divergences:
        loss = F.cross_entropy(logits, labels, ignore_index=255)
    (grad,) = torch.autograd.grad(divergences.objective(loss), logits)
    assert torch.equal(grad, torch.zeros(2, 4))


def declared(tail, **settings):
    """A host with a declared site at its front; ``tail(model, feature, y)`` gives the losses."""
    afan = AFANSettings(**dict(SETTINGS, **settings))

    def forward(model, x, y):
        def rest(feature):
            return tail(model, feature, y)

        return rest(tap('afan', model.front(x), rest, afan))

    model = host(forward)
    model.afan = afan
    return model


def test_other_losses_do_not_count():
    """Also where the host adds them to the cross entropy; they stay in the clean loss."""

    def tail(model, feature, y):
        logits = model.classifier(feature)
        return dict(
            loss=0.5 * F.cross_entropy(logits, y) + logits.square().mean(),
            loss_other=feature.abs().mean(),
        )

    model, data = declared(tail), batch()
    ours = gradients(model, data)
    feature = model.front(data['x'])
    clean = sum(tail(model, feature, data['y']).values())
    (direction,) = torch.autograd.grad(clean, feature, retain_graph=True)
    p, total = model.classifier(feature).softmax(1).detach(), clean
    for ratio in RATIOS:
        q = model.classifier(feature + ratio * EXACT['epsilon'] * direction.sign()).softmax(1)
        total = total + 0.7 * 0.5 * (p * (p.log() - q.log())).sum(1).mean()
    model.zero_grad()
    total.backward()
    assert_same(ours, {name: p.grad for name, p in model.named_parameters()})


def test_a_random_start_ascends_the_divergence():
    """As VAT's direction, which needs no label: others do not change the perturbation."""

    def tail(model, feature, y):
        return dict(loss=F.cross_entropy(model.classifier(feature), y))

    found = []
    for labels in (batch()['y'], (batch()['y'] + 1) % 3):
        model = declared(tail, random_start=True, adv_weight=1.0)
        wrapper = optim_wrapper(model, clean_weight=1e-300)
        found.append(gradients(model, dict(batch(), y=labels), wrapper))
    assert_same(*found)


def test_accumulation():
    """Two batches of weight one half each."""

    def tail(model, feature, y):
        return dict(loss=F.cross_entropy(model.classifier(feature), y))

    each = [gradients(declared(tail), batch(seed=seed)) for seed in (1, 2)]
    model = declared(tail)
    wrapper = optim_wrapper(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 2)
    for seed in (1, 2):
        data = batch(seed=seed)
        with wrapper.optim_context(model):
            loss = model.parse_losses(model(**data))[0]
        wrapper.backward(wrapper.scale_loss(loss))
    mean = {
        name: None if grad is None else (grad + each[1][name]) / 2 for name, grad in each[0].items()
    }
    assert_same({name: p.grad for name, p in model.named_parameters()}, mean)


@pytest.mark.parametrize(
    'losses, message',
    (
        (
            lambda logits, y, again: F.binary_cross_entropy_with_logits(
                logits, F.one_hot(y, 3).double()
            ),
            r"site 'afan' of Host: objective='consistency' is allowed where .* has none",
        ),
        (
            lambda logits, y, again: F.cross_entropy(logits, (y + len(again)) % 3),
            r"site 'afan' of Host: .* labels .* its tail samples or matches anew",
        ),
        (
            lambda logits, y, again: F.cross_entropy(logits[len(again) :], y[len(again) :]),
            r"'afan'.* one of logits \(7, 3\) stands where the clean pass had \(8, 3\)",
        ),
        (
            lambda logits, y, again: sum(F.cross_entropy(logits, y) for _ in (1, *again)),
            r'one of logits \(8, 3\) stands where the clean pass had none',
        ),
    ),
    ids=('sigmoid', 'labels', 'shape', 'number'),
)
def test_what_cannot_be_compared_is_refused(losses, message):
    passes = []

    def tail(model, feature, y):
        again = list(passes)
        passes.append(1)
        return dict(loss=losses(model.classifier(feature), y, again[:1]))

    model = declared(tail)
    with pytest.raises((ValueError, RuntimeError), match=message):
        model.train_step(batch(), optim_wrapper(model))


def test_a_site_that_no_module_declares_is_refused():
    def forward(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(feature), y))

        return tail(tap('afan', model.front(x), tail, AFANSettings(**SETTINGS)))

    model = host(forward)
    with pytest.raises(
        RuntimeError, match="'afan'.*no module declares the site by its attribute afan"
    ):
        model.train_step(batch(), optim_wrapper(model))


def test_a_head_without_class_logits_is_refused():
    config = segmentor_config()
    config.decode_head.update(out_channels=1, num_classes=2, threshold=0.5)
    config.decode_head.loss_decode.update(use_sigmoid=True)
    model = build(with_afan(config, head=dict(objective='consistency')))
    data = segmentation_batch()
    for sample in data['data_samples']:
        sample.gt_sem_seg.data %= 2
    with pytest.raises(ValueError, match="'decode_head' of AFANDepthwiseSeparableASPPHead: .*none"):
        train(model, optim_wrapper(model), [data])


def test_a_detector_must_keep_its_rois():
    model = build(with_afan(detector_config(), neck=dict(objective='consistency')))
    with pytest.raises(ValueError, match=r"reuse_proposals must be True with .*'neck'.* got False"):
        train(model, optim_wrapper(model), [detection_batch()])


def test_settings():
    with pytest.raises(ValueError, match=r"objective must be one of \('loss', 'consistency'\)"):
        AFANSettings(objective='kl')
    sites = [
        AFANSettings(name=name, objective=objective, joint=joint, num_strengths=1, adv_weight=0.4)
        for name, objective, joint in (
            ('a', 'loss', True),
            ('b', 'consistency', True),
            ('c', 'consistency', False),
        )
    ]
    with pytest.raises(ValueError, match='objective must be the same at all A-FAN sites'):
        check_group(sites)
    # a divergence repeats no label
    assert adversarial_weight([sites[0], sites[2]]) == 0.4
    assert complement([sites[0], sites[2]]) == 0.6


@pytest.mark.parametrize('model', ('segmentor', 'detector'))
def test_off_changes_nothing(model):
    """No strength, or a stock wrapper: bit-identical to stock."""
    config = dict(segmentor=segmentor_config(dropout=0.3), detector=detector_config())[model]
    make = dict(segmentor=segmentation_batch, detector=detection_batch)[model]
    neck = dict(objective='consistency', reuse_proposals=model == 'detector')
    found = []
    for on, kind, k in ((0, 'OptimWrapper', 1), (1, 'OptimWrapper', 1), (1, 'AFANOptimWrapper', 0)):
        afan = dict(num_strengths=k) if on else None
        built = build(
            with_afan(
                config,
                neck=dict(neck, **afan) if on else None,
                head=dict(afan, objective='consistency') if on else None,
            )
        )
        seed_everything(1)
        logs = train(built, optim_wrapper(built, kind), [make(seed=seed) for seed in range(3)])
        found.append((logs, parameters(built), random_streams()))
    for logs, state, streams in found[1:]:
        assert logs == found[0][0]
        assert_identical(state, found[0][1])
        assert_identical(streams, found[0][2])


@pytest.mark.parametrize('joint', (False, True))
def test_nothing_stays(joint):
    """No tensor is alive after a step that was not before, with the garbage collector off."""
    settings = dict(objective='consistency', num_steps=2, num_strengths=2, joint=joint)
    model = build(with_afan(segmentor_config(), neck=settings, head=settings))
    wrapper, data = optim_wrapper(model), segmentation_batch()
    wrapper.health.due = True

    def step():
        train(model, wrapper, [data])
        wrapper.health.report()
        return sum(isinstance(each, torch.Tensor) for each in gc.get_objects())

    step(), step()
    copy.deepcopy(model)
    gc.collect()
    gc.disable()
    try:
        before = step()
        assert max(step() for _ in range(8)) <= before
    finally:
        gc.enable()


def test_target_gain_is_that_of_the_divergence():
    """Twice too small a divergence: the factor rises by a tenth of the relative error."""

    def tail(model, feature, y):
        return dict(loss=F.cross_entropy(model.classifier(feature), y))

    model, data = declared(tail, num_strengths=1), batch()
    wrapper = optim_wrapper(model)
    wrapper.health.due = True
    gradients(model, data, wrapper)
    figures = wrapper.health.report()
    found = figures['afan/objective']
    assert figures['afan/gain'] == pytest.approx(found) and found > 0
    model = declared(tail, num_strengths=1, target_gain=2 * found)
    wrapper = optim_wrapper(model)
    gradients(model, data, wrapper)
    factor = float(wrapper.steering.factor(model.afan, torch.zeros(())))
    assert factor == pytest.approx(math.exp(0.1 * 0.5), rel=1e-5)


def test_a_runner(tmp_path, caplog):
    """A real run of joint sites: it says what it does, and the clean loss falls."""
    site = dict(
        objective='consistency',
        joint=True,
        norm='l2',
        epsilon=0.1,
        epsilon_unit='norm',
        num_strengths=1,
        adv_weight=0.5,
        moments=None,
    )
    trace = run(afan_model(site, site), tmp_path, max_iters=8)
    losses = [step['decode.loss_ce'] for step in trace.losses]
    assert losses[-1] < losses[0]
    for report in trace.reports:
        gain, objective = (
            next(value for key, value in report.items() if key.endswith(f'neck/{figure}'))
            for figure in ('gain', 'objective')
        )
        assert 0 < objective == gain < 1
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'all layers, consistency' in log
    assert 'clean 1 + adversarial 0 = 1, divergences 0.5' in log
    assert 'multiplies the step' not in log
