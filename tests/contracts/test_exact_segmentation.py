"""The gradients of one step, against the formula of the paper written out as one big graph, in
float64.
"""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

from support.exact import EPSILON, assert_same, objective_gradients
from support.tiny import build, gradients, segmentation_batch, segmentor_config, with_afan


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
