"""Contract 10: adversarial passes run under the host's autocast and loss scaler, and an overflow
costs one update.
"""

import copy
import importlib

import pytest
import torch

from afan_mm import augment, passes
from support.tiny import (
    assert_close,
    assert_identical,
    batch_of,
    build,
    gradients,
    gradients_at_updates,
    optim_wrapper,
    parameters,
    segmentor_config,
    train,
    with_afan,
)
from support.versions import older, with_gpu

SCALE = 2.0**10
DEVICES = ('cpu', pytest.param('cuda', marks=with_gpu))
KINDS = (('cpu', 'bfloat16'), ('cpu', 'float16'), pytest.param('cuda', 'float16', marks=with_gpu))
joint_or_not = pytest.mark.parametrize('joint', (False, True), ids=('apart', 'joint'))
detached_or_not = pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))


@pytest.fixture(autouse=True)
def amp_on_cpu(monkeypatch, request):
    """mmengine builds the wrapper only beside an accelerator, and knows one dtype without; torch's
    autocast and scaler know more. On a GPU float32 is float32, not the ten bits of TF32.
    """
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    device = request.node.callspec.params.get('device', 'cpu')

    def autocast(dtype):
        return torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32)

    monkeypatch.setattr(
        importlib.import_module('mmengine.optim.optimizer.amp_optimizer_wrapper'),
        'is_cuda_available',
        lambda: True,
    )
    monkeypatch.setattr('mmengine.runner.amp.autocast', autocast)


def amp_wrapper(model, dtype, init_scale=SCALE, kind='AFANAmpOptimWrapper', **kwargs):
    if older(torch, '2.3'):
        pytest.skip('before torch 2.3 losses are scaled on a GPU alone')
    wrapper = optim_wrapper(model, kind, dtype=dtype, **kwargs)
    device = next(model.parameters()).device.type
    wrapper.loss_scaler = torch.amp.GradScaler(device, init_scale=init_scale, growth_interval=1000)
    return wrapper


def model_of(device='cpu', neck=dict(), head=dict(), **settings):  # noqa: B006  only read
    settings = dict(dict(epsilon=0.1, num_strengths=2, strengths='linspace'), **settings)
    neck, head = (None if site is None else dict(settings, **site) for site in (neck, head))
    config = with_afan(segmentor_config(), neck=neck, head=head)
    # a shallower network at the start: fewer roundings between here and full precision
    config.backbone.zero_init_residual = True
    return build(config).to(device)


def see(module, what):
    """A list that grows by ``what(output)`` with every call of the module."""
    seen = []
    module.register_forward_hook(lambda module, args, output: seen.append(what(output)))
    return seen


@joint_or_not
@pytest.mark.parametrize('num_steps', (1, 2))
@detached_or_not
@pytest.mark.parametrize('device, dtype', KINDS)
def test_passes_run_under_autocast(device, dtype, detach, num_steps, joint):
    """Every run of the tail's last layer, the clean one among them, computes in half precision;
    gradients are float32 and finite.
    """
    model = model_of(device, detach=detach, num_steps=num_steps, joint=joint)
    dtypes = see(model.decode_head.conv_seg, lambda output: output.dtype)
    (kept,) = gradients_at_updates(model, amp_wrapper(model, dtype), [batch_of('segmentor')])
    sites = 1 if joint else 2
    assert dtypes == [getattr(torch, dtype)] * (1 + sites * (num_steps - 1 + 2))
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in kept.values())


@joint_or_not
@pytest.mark.parametrize('num_steps', (1, 2))
@detached_or_not
@pytest.mark.parametrize('device', DEVICES)
def test_gradients_are_scaled_alike(device, detach, num_steps, joint):
    """Under the scaler, all gradients are the scale times those without it, and the update gets the
    unscaled ones.
    """
    settings = dict(detach=detach, num_steps=num_steps, joint=joint)
    # in double precision: a GPU's rounding differs from run to run
    plain = gradients(model_of(device, **settings).double(), batch_of('segmentor'))
    model = model_of(device, **settings).double()
    scaled = gradients(model, batch_of('segmentor'), amp_wrapper(model, 'float32'))
    assert_close(scaled, {name: SCALE * g for name, g in plain.items()})
    model = model_of(device, **settings).double()
    # Clipping unscales first: the optimizer sees plain gradients.
    (updated,) = gradients_at_updates(
        model, amp_wrapper(model, 'float32', clip_grad=dict(max_norm=1e6)), [batch_of('segmentor')]
    )
    assert_close(updated, plain)


@pytest.mark.parametrize('device, half', KINDS)
def test_divergences_are_scaled_and_cast_alike(device, half):
    """A divergence comes out in full precision of logits in half, close to that without autocast;
    under the scaler its gradients are the scale times those without.
    """
    settings, figures = dict(objective='consistency', epsilon=5.0, moments=None), []
    plain = gradients(model_of(device, num_steps=2, **settings).double(), batch_of('segmentor'))
    model = model_of(device, num_steps=2, **settings).double()
    scaled = gradients(model, batch_of('segmentor'), amp_wrapper(model, 'float32'))
    assert_close(scaled, {name: SCALE * g for name, g in plain.items()})
    for dtype in ('float32', half):
        model = model_of(device, **settings)
        wrapper = amp_wrapper(model, dtype)
        wrapper.health.due = True
        (kept,) = gradients_at_updates(model, wrapper, [batch_of('segmentor')])
        assert all(g.isfinite().all() for g in kept.values())
        figures.append(wrapper.health.report())
    for site in ('neck', 'decode_head'):
        full, rounded = (each[f'{site}/objective'] for each in figures)
        assert full > 0 and abs(rounded - full) < 0.1 * full


def directions(model, wrapper, monkeypatch):
    """The perturbation at full strength of every site in one step."""
    found = {}

    def keep(settings, *args):
        perturbation = augment.perturb(settings, *args)
        found[settings[0].name] = perturbation.deltas[0]  # the passes take it out of the list
        return perturbation

    with monkeypatch.context() as patch:
        patch.setattr(passes, 'perturb', keep)
        gradients(model, batch_of('segmentor'), wrapper)
    return found


@pytest.mark.parametrize('random_start', (False, True), ids=('clean_pass', 'attack_pass'))
@pytest.mark.parametrize('device, half', KINDS)
def test_direction_is_that_of_full_precision(device, half, random_start, monkeypatch):
    """The sign does not feel the scale: equal in float32, and in half precision for all but the
    smallest gradients.

    The loss is so small that float16 gradients of it would all be zero without the scale.
    """

    def tiny_loss_model():
        model = model_of(device, random_start=random_start)
        model.decode_head.loss_decode.register_forward_hook(
            lambda module, args, output: 1e-6 * output
        )
        return model

    model = tiny_loss_model()
    expected = directions(model, optim_wrapper(model), monkeypatch)
    for dtype, share in (('float32', 0.999), (half, 0.8)):
        model = tiny_loss_model()
        found = directions(model, amp_wrapper(model, dtype, init_scale=2.0**20), monkeypatch)
        assert found.keys() == expected.keys() == {'neck', 'decode_head'}
        for name, delta in found.items():
            assert float((delta == expected[name]).float().mean()) >= share, (name, dtype)


@pytest.mark.parametrize('num_steps', (1, 2))
@detached_or_not
@pytest.mark.parametrize('device', DEVICES)
def test_overflow_costs_one_update(device, detach, num_steps):
    """A scale too large: the scaler sees it, skips the update and halves the scale; buffers stay
    finite and training goes on.
    """
    model = model_of(device, detach=detach, num_steps=num_steps)
    wrapper = amp_wrapper(model, 'float16', init_scale=2.0**60)
    before = {name: p.clone() for name, p in model.named_parameters()}
    train(model, wrapper, [batch_of('segmentor')])
    assert wrapper.loss_scaler.get_scale() == 2.0**59
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    wrapper.loss_scaler.update(SCALE)
    (log,) = train(model, wrapper, [batch_of('segmentor', seed=1)])
    assert log['loss'] < float('inf') and not all(
        torch.equal(p, before[name]) for name, p in model.named_parameters()
    )
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize('device', DEVICES)
def test_state_of_the_scaler_round_trips(device):
    """A resumed run goes on with the scale it had, bit for bit."""
    model, batches = model_of(device), [batch_of('segmentor', seed=step) for step in range(3)]
    wrapper = amp_wrapper(model, 'float16')
    train(model, wrapper, batches[:2])
    again = model_of(device)
    again.load_state_dict(model.state_dict())
    resumed = amp_wrapper(again, 'float16', init_scale=2.0)
    state = copy.deepcopy(wrapper.state_dict())
    assert state['loss_scaler']['scale'] == SCALE
    resumed.load_state_dict(state)
    resumed._inner_count = wrapper._inner_count  # what the Runner does
    assert resumed.loss_scaler.get_scale() == SCALE
    assert train(model, wrapper, batches[2:]) == train(again, resumed, batches[2:])
    if device == 'cpu':  # a GPU's interpolation does not repeat every bit
        assert_identical(parameters(again), parameters(model))
