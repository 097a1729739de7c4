"""The gradients of one step, against the formula of the paper written out as one big graph, in
float64.
"""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
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
        positional=lambda f: f.reshape(n, 1, c, h, w).expand(n, c, c, h, w),
    )[kind](feature)
    mean = rows.sum(2) / rows.shape[2]
    variance = ((rows - mean[:, :, None]) ** 2).sum(2) / rows.shape[2]
    return mean, torch.sqrt(variance + 1e-5)


def naive_mix(clean, delta, kind):
    if kind is None:
        return clean + delta
    if clean.dim() == 2:  # a vector is a 1x1 map
        return naive_mix(clean[..., None, None], delta[..., None, None], kind)[..., 0, 0]
    (mean, std), (mean_adv, std_adv) = (
        naive_moments(clean, kind),
        naive_moments(clean + delta, kind),
    )
    return std_adv * (clean - mean) / std + mean_adv


def objective_gradients(model, clean, places, num_steps, step_size, kind, cut):
    """Gradients of ``clean + 0.7 * sum L_adv``; ``places`` are (clean feature, tail), ``cut``
    detaches or does not.
    """
    total = clean
    for f, tail in places:
        delta = torch.zeros_like(f)
        for step in range(num_steps):
            if step == 0:
                (grad,) = torch.autograd.grad(clean, f, retain_graph=True)
            else:
                moved = (f + delta).detach().requires_grad_()
                (grad,) = torch.autograd.grad(tail(moved), moved)
            delta = (delta + step_size * torch.sign(grad)).clamp(-EPSILON, EPSILON).detach()
        for ratio in RATIOS:
            total = total + 0.7 * tail(naive_mix(cut(f), ratio * delta, kind))
    model.zero_grad()
    total.backward()
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def naive_gradients(model, batch, sites, num_steps, step_size, kind, detach):
    """Eq. 6 on explicit graphs. ``sites``: 'neck' is the backbone's last level, 'bottleneck' the
    ASPP's output, 'classifier' the classifier's input."""
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    samples, head = data['data_samples'], model.decode_head

    def aspp(feature):
        pooled = F.interpolate(head.image_pool(feature), feature.shape[2:], mode='bilinear')
        return head.bottleneck(torch.cat([pooled, *head.aspp_modules(feature)], 1))

    def decode(feature, low_level):
        low_level = head.c1_bottleneck(low_level)
        feature = F.interpolate(feature, low_level.shape[2:], mode='bilinear')
        return head.sep_bottleneck(torch.cat([feature, low_level], 1))

    def head_loss(feature):
        return head.loss_by_feat(head.conv_seg(feature), samples)['loss_ce']

    levels = model.backbone(data['inputs'])
    middle = aspp(levels[-1])
    feature = decode(middle, levels[0])
    clean = head_loss(feature) + model.auxiliary_head.loss(levels, samples, None)['loss_ce']
    # (clean feature, tail) of each site
    cut = (lambda t: t.detach()) if detach else (lambda t: t)
    places = dict(
        neck=(levels[-1], lambda f: head_loss(decode(aspp(f), cut(levels[0])))),
        bottleneck=(middle, lambda f: head_loss(decode(f, cut(levels[0])))),
        classifier=(feature, head_loss),
    )
    return objective_gradients(
        model, clean, [places[site] for site in sites], num_steps, step_size, kind, cut
    )


def assert_same(ours, reference):
    assert ours.keys() == reference.keys()
    for name, expected in reference.items():
        assert (ours[name] is None) == (expected is None), name
        if expected is not None:
            torch.testing.assert_close(
                ours[name],
                expected,
                rtol=1e-8,
                atol=1e-8 * max(1.0, float(expected.abs().max())),
                msg=name,
            )


PGD = ((1, EPSILON), (3, 0.2))  # PGD-3 leaves the ball by 0.3 and is projected
SITES = (
    ('neck',),
    ('bottleneck',),
    ('classifier',),
    ('neck', 'classifier'),
    ('neck', 'bottleneck'),
)
KINDS = (None, 'batch', 'instance', 'layer', 'group', 'positional')


@pytest.mark.parametrize('sites', SITES, ids='+'.join)
@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
def test_step_equals_the_formula(sites, detach):
    batch = segmentation_batch()
    # a second site does not meet the moments of the first
    kinds = KINDS if len(sites) == 1 else ('batch',)
    for (num_steps, step_size), kind in itertools.product(PGD, kinds):
        settings = dict(
            epsilon=EPSILON,
            num_steps=num_steps,
            step_size=step_size,
            moments=kind,
            num_groups=4,
            detach=detach,
            num_strengths=2,
            strengths='linspace',
            adv_weight=0.7,
        )
        head = next((dict(settings, site=site) for site in sites if site != 'neck'), None)
        model = build(
            with_afan(segmentor_config(), neck=settings if 'neck' in sites else None, head=head)
        ).double()
        stock = build(segmentor_config()).double()
        assert_same(
            gradients(model, batch),
            naive_gradients(stock, batch, sites, num_steps, step_size, kind, detach),
        )


def test_reference_is_sensitive():
    """The comparison would notice another direction, another moment and a missing pass."""
    batch = segmentation_batch()
    stock = build(segmentor_config()).double()
    right = naive_gradients(stock, batch, ('neck',), 1, EPSILON, 'batch', True)
    for wrong in (
        (('neck',), 1, EPSILON, 'instance', True),
        (('neck',), 1, EPSILON, 'batch', False),
        ((), 1, EPSILON, 'batch', True),
        (('neck',), 1, -EPSILON, 'batch', True),
        (('neck',), 3, 0.2, 'batch', True),
    ):
        with pytest.raises(AssertionError):
            assert_same(naive_gradients(stock, batch, *wrong), right)
