"""Sites of mmseg and mmdet models perturbed together, across components and within one: the
gradients of one step against explicit graphs, in float64.
"""

import copy

import pytest
import torch
import torch.nn.functional as F

from support.exact import EPSILON, assert_same
from support.joint import joint_gradients
from support.tiny import build, gradients, segmentation_batch, segmentor_config, with_afan

SETTINGS = dict(epsilon=EPSILON, num_strengths=2, strengths='linspace', adv_weight=0.7, joint=True)
STAGES = ('backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4')


def segmentor_gradients(model, batch, sites, detach, **options):
    """Eq. 6 on explicit graphs; ``sites`` are stages of the backbone, the 'bottleneck' (the ASPP's
    output) and the 'classifier' (its input), in their order.
    """
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    samples, head, first = data['data_samples'], model.decode_head, sites[0]

    def decode(levels, at, low_level):
        pooled = F.interpolate(head.image_pool(levels[3]), levels[3].shape[2:], mode='bilinear')
        middle = torch.cat([pooled, *head.aspp_modules(levels[3])], 1)
        return from_bottleneck(at('bottleneck', head.bottleneck(middle)), at, low_level)

    def from_bottleneck(middle, at, low_level):
        low_level = head.c1_bottleneck(low_level)
        middle = F.interpolate(middle, low_level.shape[2:], mode='bilinear')
        feature = head.sep_bottleneck(torch.cat([middle, low_level], 1))
        return classify(at('classifier', feature))

    def classify(feature):
        return head.loss_by_feat(head.conv_seg(feature), samples)['loss_ce']

    def from_stage(feature, at, stage, before):
        levels = [*before, feature]
        for name in STAGES[stage + 1 :]:
            levels.append(at(name, model.get_submodule(name)(levels[-1])))
        loss = decode(levels, at, levels[0])
        if stage <= 2:  # the auxiliary head reads layer3
            loss = loss + model.auxiliary_head.loss(levels, samples, None)['loss_ce']
        return loss

    features = {}

    def keep(name, feature):
        features[name] = feature
        return feature

    stem = model.backbone.maxpool(model.backbone.stem(data['inputs']))
    levels = [keep(STAGES[0], model.backbone.layer1(stem))]
    clean = from_stage(levels[0], keep, 0, [])
    cut = (lambda t: t.detach()) if detach else (lambda t: t)

    def tail(feature, at):
        if first == 'classifier':
            return classify(feature)
        if first == 'bottleneck':
            return from_bottleneck(feature, at, cut(features[STAGES[0]]))
        stage = STAGES.index(first)
        return from_stage(feature, at, stage, [cut(features[name]) for name in STAGES[:stage]])

    return joint_gradients(
        model, clean, {site: features[site] for site in sites}, tail, detach=detach, **options
    )


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize(
    'sites',
    (
        (STAGES[3], 'classifier'),
        (STAGES[2], STAGES[3], 'bottleneck', 'classifier'),
        ('bottleneck', 'classifier'),
    ),
    ids='+'.join,
)
def test_segmentor(sites, detach):
    """A backbone's stages (one component), the head's own features (another), and both."""
    batch = segmentation_batch()
    for num_steps, step_size, kind in ((1, EPSILON, 'batch'), (3, 0.2, None)):
        settings = dict(
            SETTINGS, num_steps=num_steps, step_size=step_size, moments=kind, detach=detach
        )
        each = [dict(settings, site=site) for site in sites]
        stages = [site for site in each if '.' in site['site']]
        head = [site for site in each if '.' not in site['site']]
        # the order in which sites are written is no matter
        model = build(
            with_afan(segmentor_config(), neck=stages[::-1] or None, head=head[::-1])
        ).double()
        stock = build(segmentor_config()).double()
        options = dict(num_steps=num_steps, step_size=step_size, kind=kind)
        assert_same(
            gradients(model, batch), segmentor_gradients(stock, batch, sites, detach, **options)
        )
