"""Hostile batches neither stop nor poison the training."""

import pytest
import torch
import torch.nn.functional as F

from afan_mm import AFANSettings, tap
from support import toy
from support.tiny import (
    HOSTS,
    assert_close,
    assert_identical,
    batch_of,
    build,
    detection_batch,
    gradients,
    optim_wrapper,
    parameters,
    segmentation_batch,
    stock_config,
    train,
    with_afan,
)

NUM_NORMAL = 2  # steps after the hostile one
SETTINGS = dict(epsilon=0.1, num_strengths=2)
detached_or_not = pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))

BATCHES = {
    'segmentor-all_ignored': ('segmentor', lambda: segmentation_batch(ignore=True)),
    'segmentor-1x1_feature': ('segmentor', lambda: segmentation_batch(size=8)),
    'detector-no_objects': ('detector', lambda: detection_batch(boxes=[[], []])),
    'detector-one_without_objects': (
        'detector',
        lambda: detection_batch(boxes=[[[4, 4, 40, 40]], []]),
    ),
    'detector-batch_of_one': ('detector', lambda: detection_batch(num_samples=1)),
    'detector-1x1_feature': ('detector', lambda: detection_batch(size=32)),
    'detector-zero_area': (
        'detector',
        lambda: detection_batch(boxes=[[[10, 10, 10, 10]], [[20, 8, 20, 40]]]),
    ),
    'detector-outside': (
        'detector',
        lambda: detection_batch(boxes=[[[500, 500, 600, 600]], [[-90, -90, -50, -50]]]),
    ),
}


def finite(values):
    return all(torch.isfinite(torch.as_tensor(value)).all() for value in values)


def loss_of(model):
    """The module that computes the classification loss, once a pass."""
    return (
        model.decode_head.loss_decode
        if hasattr(model, 'decode_head')
        else model.roi_head.bbox_head.loss_cls
    )


def model_of(host, **settings):
    settings = dict(SETTINGS, **settings)
    return build(with_afan(stock_config(host), neck=settings, head=settings))


def go_on(model, wrapper, host):
    """Ordinary steps change the parameters and give finite losses."""
    before = parameters(model)
    logs = train(model, wrapper, [batch_of(host, seed=5 + step) for step in range(NUM_NORMAL)])
    assert all(finite(log.values()) for log in logs)
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert finite(model.state_dict().values())


@pytest.mark.parametrize('num_steps', (1, 2))
@detached_or_not
@pytest.mark.parametrize('name', BATCHES)
def test_training_survives(name, detach, num_steps):
    """Parameters and buffers stay finite, also where the stock loss of this batch is not."""
    host, make = BATCHES[name]
    model = model_of(host, detach=detach, num_steps=num_steps)
    wrapper = optim_wrapper(model)
    (log,) = train(model, wrapper, [make()])
    assert finite(model.state_dict().values())
    stock = build(stock_config(host))
    (expected,) = train(stock, optim_wrapper(stock, 'OptimWrapper'), [make()])
    assert_identical(log, expected)
    go_on(model, wrapper, host)


@detached_or_not
def test_segmentor_without_pooled_norm_survives_a_batch_of_one(detach):
    """DeepLab's pooled branch cannot normalise a single value per channel, with or without A-FAN:
    give it GroupNorm.
    """
    config = stock_config('segmentor')
    config.decode_head.norm_cfg = dict(type='GN', num_groups=4)
    settings = dict(SETTINGS, detach=detach, moments='batch')
    model = build(with_afan(config, neck=settings, head=settings))
    wrapper = optim_wrapper(model)
    assert finite(train(model, wrapper, [segmentation_batch(num_samples=1)])[0].values())
    go_on(model, wrapper, 'segmentor')


@detached_or_not
@pytest.mark.parametrize('value', (float('nan'), float('inf')))
@pytest.mark.parametrize('host', HOSTS)
def test_loss_that_is_not_finite(host, value, detach):
    """The update counts a zero gradient: the momentum alone moves a parameter, and stays usable; no
    buffer is poisoned.
    """
    model = model_of(host, detach=detach)
    wrapper = optim_wrapper(model)
    train(model, wrapper, [batch_of(host)])
    momentum = {p: state['momentum_buffer'] for p, state in wrapper.optimizer.state.items()}
    expected = {
        name: p.detach() - 0.01 * 0.9 * momentum[p] if p in momentum else p.detach().clone()
        for name, p in model.named_parameters()
    }
    handle = loss_of(model).register_forward_hook(lambda module, args, output: output * value)
    (log,) = train(model, wrapper, [batch_of(host, seed=1)])
    handle.remove()
    assert not finite([log['loss']]) and wrapper.num_void_updates == 1
    assert_close(dict(model.named_parameters()), expected)
    assert finite(model.state_dict().values())
    go_on(model, wrapper, host)
    assert wrapper.num_void_updates == 1


@detached_or_not
@pytest.mark.parametrize('host', HOSTS)
def test_broken_direction_counts_zero(host, detach):
    """A site whose direction alone is not finite adds nothing, and the clean gradients before the
    site stay as they are.
    """
    model, stock = model_of(host, detach=detach, num_steps=2), build(stock_config(host))
    # the clean pass comes first; then each site's attack pass and two adversarial ones
    attack_passes, calls = (2, 5), []

    def break_attack_passes(module, args, output):
        calls.append(1)
        if len(calls) in attack_passes:  # a finite loss whose gradient is not
            output.register_hook(lambda grad: grad * float('nan'))

    handle = loss_of(model).register_forward_hook(break_attack_passes)
    wrapper = optim_wrapper(model)
    ours = gradients(model, batch_of(host), wrapper)
    handle.remove()
    assert len(calls) == 7
    sites = ('neck', 'decode_head' if host == 'segmentor' else 'roi_head')
    assert wrapper.health.report() == {f'{site}/nonfinite_share': 1.0 for site in sites}
    assert_close(ours, gradients(stock, batch_of(host)))


@pytest.mark.parametrize('value, void', ((100.0, 0), (float('inf'), 1), (float('nan'), 1)))
def test_large_gradients_in_half_precision_are_finite(value, void):
    """A thousand gradients of 100 add up to more than float16 holds."""
    layer = torch.nn.Linear(1000, 1).half()
    wrapper = optim_wrapper(layer)
    layer.weight.grad = torch.full_like(layer.weight, 100.0)
    layer.weight.grad[0, 0] = value
    wrapper._void_unless_finite()
    assert wrapper.num_void_updates == void
    assert layer.weight.grad.float().unique().tolist() == [0.0 if void else 100.0]


@pytest.mark.parametrize('hostile', (0, 1), ids=('with passes', 'without'))
def test_iterations_without_passes_are_guarded_too(hostile):
    """With ``interval=2`` every other iteration has none."""

    def run(model, x, y):
        def tail(feature):
            return dict(loss=F.cross_entropy(model.classifier(feature), y) * model.factor)

        return tail(tap('site', model.front(x), tail, AFANSettings(**toy.EXACT, interval=2)))

    model = toy.host(run)
    wrapper = optim_wrapper(model)
    for iteration in range(3):
        model.factor = float('nan') if iteration == hostile else 1.0
        model.train_step(toy.batch(seed=iteration), wrapper)
    assert finite(model.state_dict().values()) and wrapper.num_void_updates == 1
