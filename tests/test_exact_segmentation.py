"""The gradients of one step, against the formula of the paper written out as one big graph, in float64."""
import copy
import itertools

import pytest
import torch
from tiny import build, gradients, segmentation_batch, segmentor_config, with_afan

EPSILON = 0.3  # large enough that a wrong direction or moment shows
RATIOS = (0.5, 1.0)  # strengths='linspace' with two strengths


def naive_moments(feature, kind):
    """Mean and std by an explicit formula for each kind, expanded to the feature."""
    n, c, h, w = feature.shape
    rows = dict(
        batch=lambda f: f.permute(1, 0, 2, 3).reshape(1, c, -1, 1, 1).expand(n, c, -1, 1, 1),
        instance=lambda f: f.reshape(n, c, -1, 1, 1),
        layer=lambda f: f.reshape(n, 1, -1, 1, 1).expand(n, c, -1, 1, 1),
        group=lambda f: f.reshape(n, 4, -1, 1, 1).repeat_interleave(c // 4, 1),
        positional=lambda f: f.reshape(n, 1, c, h, w).expand(n, c, c, h, w))[kind](feature)
    mean = rows.sum(2) / rows.shape[2]
    variance = ((rows - mean[:, :, None])**2).sum(2) / rows.shape[2]
    return mean, torch.sqrt(variance + 1e-5)


def naive_mix(clean, delta, kind):
    if kind is None:
        return clean + delta
    (mean, std), (mean_adv, std_adv) = naive_moments(clean, kind), naive_moments(clean + delta, kind)
    return std_adv * (clean - mean) / std + mean_adv


def naive_gradients(model, batch, sites, num_steps, step_size, kind, detach):
    """Eq. 6 on explicit graphs. ``sites`` names them: 'neck' is the backbone's last level, 'head' the classifier's input."""
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    samples, head = data['data_samples'], model.decode_head

    def decode(levels):
        """Everything of the stock head but its classifier."""
        kept = []
        handle = head.conv_seg.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        head.forward(levels)
        handle.remove()
        return kept[0]

    def head_loss(feature):
        return head.loss_by_feat(head.conv_seg(feature), samples)['loss_ce']

    levels = model.backbone(data['inputs'])
    feature = decode(levels)
    clean = head_loss(feature) + model.auxiliary_head.loss(levels, samples, None)['loss_ce']
    # (clean feature, tail) of each site
    cut = (lambda t: t.detach()) if detach else (lambda t: t)
    places = dict(
        neck=(levels[-1], lambda f: head_loss(decode([cut(level) for level in levels[:-1]] + [f]))),
        head=(feature, head_loss))
    total = clean
    for site in sites:
        f, tail = places[site]
        delta = torch.zeros_like(f)
        for step in range(num_steps):
            if step == 0:
                grad, = torch.autograd.grad(clean, f, retain_graph=True)
            else:
                moved = (f + delta).detach().requires_grad_()
                grad, = torch.autograd.grad(tail(moved), moved)
            delta = (delta + step_size * torch.sign(grad)).clamp(-EPSILON, EPSILON).detach()
        for ratio in RATIOS:
            total = total + 0.7 * tail(naive_mix(cut(f), ratio * delta, kind))
    model.zero_grad()
    total.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def assert_same(ours, reference):
    assert ours.keys() == reference.keys()
    for name, expected in reference.items():
        assert (ours[name] is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(ours[name], expected, rtol=1e-8, atol=1e-8 * max(1.0, float(expected.abs().max())), msg=name)


PGD = ((1, EPSILON), (3, 0.2))  # PGD-3 leaves the ball by 0.3 and is projected
SITES = (('neck', ), ('head', ), ('neck', 'head'))
KINDS = (None, 'batch', 'instance', 'layer', 'group', 'positional')


@pytest.mark.parametrize('sites', SITES, ids='+'.join)
@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
def test_step_equals_the_formula(sites, detach):
    batch = segmentation_batch()
    for (num_steps, step_size), kind in itertools.product(PGD, KINDS):
        settings = dict(epsilon=EPSILON, num_steps=num_steps, step_size=step_size, moments=kind, num_groups=4, detach=detach,
                        num_strengths=2, strengths='linspace', adv_weight=0.7)
        config = with_afan(segmentor_config(), neck=settings if 'neck' in sites else None, head=settings if 'head' in sites else None)
        model = build(config).double()
        stock = build(segmentor_config()).double()
        assert_same(gradients(model, batch), naive_gradients(stock, batch, sites, num_steps, step_size, kind, detach))


def test_reference_is_sensitive():
    """The comparison would notice another direction, another moment and a missing pass."""
    batch = segmentation_batch()
    stock = build(segmentor_config()).double()
    right = naive_gradients(stock, batch, ('neck', ), 1, EPSILON, 'batch', True)
    for wrong in ((('neck', ), 1, EPSILON, 'instance', True), (('neck', ), 1, EPSILON, 'batch', False), ((), 1, EPSILON, 'batch', True),
                  (('neck', ), 1, -EPSILON, 'batch', True), (('neck', ), 3, 0.2, 'batch', True)):
        with pytest.raises(AssertionError):
            assert_same(naive_gradients(stock, batch, *wrong), right)
