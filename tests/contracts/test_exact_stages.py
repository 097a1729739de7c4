"""Sites inside the backbone, and hosts of their own kind: the gradients of one step against
explicit formulas, in float64.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.segmentors import EncoderDecoder

from support.exact import (
    EPSILON,
    assert_same,
    detection_formula,
    objective_gradients,
)
from support.tiny import (
    assert_close,
    build,
    detection_batch,
    detector_config,
    gradients,
    optim_wrapper,
    segmentation_batch,
    segmentor_config,
    train,
    with_afan,
)

SETTINGS = dict(
    epsilon=EPSILON, num_strengths=2, strengths='linspace', adv_weight=0.7, num_groups=4
)
STAGES = ('backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4')


def segmentor_formula(model, batch, sites, num_steps, step_size, kind, cut, cut_context):
    """Eq. 6 on explicit graphs for sites after stages of the backbone and at the classifier."""
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    samples, head, backbone = data['data_samples'], model.decode_head, model.backbone

    def head_loss(feature):
        return head.loss_by_feat(head.conv_seg(feature), samples)['loss_ce']

    def decode(levels):
        pooled = F.interpolate(head.image_pool(levels[3]), levels[3].shape[2:], mode='bilinear')
        feature = head.bottleneck(torch.cat([pooled, *head.aspp_modules(levels[3])], 1))
        low_level = head.c1_bottleneck(levels[0])
        feature = F.interpolate(feature, low_level.shape[2:], mode='bilinear')
        return head.sep_bottleneck(torch.cat([feature, low_level], 1))

    def stages(feature, first):
        levels = []
        for name in STAGES[first:]:
            feature = model.get_submodule(name)(feature)
            levels.append(feature)
        return levels

    def auxiliary(levels):
        return model.auxiliary_head.loss(levels, samples, None)['loss_ce']

    def tail(stage):
        def losses(feature):
            levels = (
                [cut_context(level) for level in clean_levels[:stage]]
                + [feature]
                + stages(feature, stage + 1)
            )
            loss = head_loss(decode(levels))
            # the auxiliary head reads layer3
            return loss + auxiliary(levels) if stage <= 2 else loss

        return losses

    clean_levels = stages(backbone.maxpool(backbone.stem(data['inputs'])), 0)
    last = decode(clean_levels)
    clean = head_loss(last) + auxiliary(clean_levels)
    places = {name: (clean_levels[stage], tail(stage)) for stage, name in enumerate(STAGES)}
    places['classifier'] = (last, head_loss)
    return objective_gradients(
        model, clean, [places[site] for site in sites], num_steps, step_size, kind, cut
    )


def detached(tensor):
    return tensor.detach()


def attached(tensor):
    return tensor


@pytest.mark.parametrize(
    'sites',
    (
        *((stage,) for stage in STAGES),
        STAGES[1:3],
        (STAGES[0], STAGES[3]),
        (STAGES[2], 'classifier'),
    ),
    ids='+'.join,
)
@pytest.mark.parametrize(
    'detach, detach_context',
    ((True, None), (False, None), (True, False), (False, True)),
    ids=('detached', 'attached', 'context-attached', 'context-detached'),
)
def test_stages_of_a_segmentor(sites, detach, detach_context):
    batch = segmentation_batch()
    for num_steps, step_size, kind in ((1, EPSILON, 'batch'), (3, 0.2, 'positional')):
        settings = dict(
            SETTINGS,
            num_steps=num_steps,
            step_size=step_size,
            moments=kind,
            detach=detach,
            detach_context=detach_context,
        )
        stages = [dict(settings, site=site) for site in sites if site != 'classifier']
        model = build(
            with_afan(
                segmentor_config(),
                neck=stages if len(stages) > 1 else stages[0],
                head=settings if 'classifier' in sites else None,
            )
        ).double()
        cut = detached if detach else attached
        cut_context = cut if detach_context is None else detached if detach_context else attached
        assert_same(
            gradients(model, batch),
            segmentor_formula(
                build(segmentor_config()).double(),
                batch,
                sites,
                num_steps,
                step_size,
                kind,
                cut,
                cut_context,
            ),
        )


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize('sites', (('stage',), ('neck',), ('pyramid',)), ids='+'.join)
@pytest.mark.parametrize('reuse', (False, True), ids=('sampled-anew', 'reused'))
def test_stage_of_a_detector_and_reused_proposals(sites, reuse, detach):
    places = dict(
        stage=dict(site='backbone.layer2'), neck=dict(), pyramid=dict(site='output', levels=[0])
    )
    for num_steps, step_size in ((1, EPSILON), (3, 0.2)):
        settings = dict(
            SETTINGS,
            num_steps=num_steps,
            step_size=step_size,
            detach=detach,
            reuse_proposals=reuse,
            **places[sites[0]],
        )
        model = build(with_afan(detector_config(), neck=settings)).double()
        batch = detection_batch(size=96)
        assert_same(
            gradients(model, batch),
            detection_formula(
                build(detector_config()).double(),
                batch,
                sites,
                num_steps,
                step_size,
                'batch',
                detach,
                reuse,
            ),
        )


def test_reused_proposals_make_the_control_the_clean_loss():
    """Few of the proposals are sampled, at random: only where they are reused does an unperturbed
    pass see the clean loss again.
    """
    config = detector_config()
    config.train_cfg.rpn.sampler.update(num=16)
    config.train_cfg.rcnn.sampler.update(num=8)
    gains = {}
    for reuse in (False, True):
        model = build(
            with_afan(config, neck=dict(SETTINGS, perturbation='none', reuse_proposals=reuse))
        )
        wrapper = optim_wrapper(model)
        wrapper.health.due = True
        (log,) = train(model, wrapper, [detection_batch()])
        gains[reuse] = wrapper.health.report()['neck/objective'] - log['loss']
    assert abs(gains[True]) < 1e-6 < 1e-4 < abs(gains[False])


class WithoutExtractFeat(EncoderDecoder):
    """Its loss reaches the neck in its own way."""

    def loss(self, inputs, data_samples):
        return self._decode_head_forward_train(
            self.neck(self.backbone(inputs)) if self.with_neck else self.backbone(inputs),
            data_samples,
        )


class Postprocessing(EncoderDecoder):
    """Its extract_feat goes on after the neck."""

    def extract_feat(self, inputs):
        return [2 * level for level in super().extract_feat(inputs)]


@pytest.mark.parametrize(
    'site',
    (dict(), dict(site='output'), dict(site='backbone.layer2')),
    ids=('input', 'output', 'stage'),
)
@pytest.mark.parametrize(
    'host', (WithoutExtractFeat, Postprocessing), ids=lambda host: host.__name__
)
def test_hosts_that_compute_their_features_in_their_own_way(host, site):
    """Two unperturbed passes of weight 1 make the gradients of what comes after the site three
    times those of the stock step.
    """
    config = segmentor_config(auxiliary=False)
    config.update(type=host)
    control = dict(perturbation='none', moments=None, num_strengths=2, **site)
    ours = gradients(build(with_afan(config, neck=control)), segmentation_batch())
    stock = gradients(build(config), segmentation_batch(), None)
    after = (
        'decode_head',
        *(['backbone.layer3', 'backbone.layer4'] if 'site' in site and '.' in site['site'] else []),
    )
    tripled = {
        name: 3 * g
        for name, g in stock.items()
        if name.startswith(after) and 'c1_bottleneck' not in name
    }
    assert tripled
    assert_close({name: ours[name] for name in tripled}, tripled)


@pytest.mark.parametrize(
    'levels, message',
    (
        (None, 'levels must be given for a module that returns 2 tensors'),
        ((0, 2), 'levels must lie in'),
    ),
)
def test_module_of_several_tensors(levels, message):
    """It is a site with its levels named, and refused without."""

    class Pair(torch.nn.Module):
        def forward(self, feature):
            return feature, feature.mean()

    class PairHost(EncoderDecoder):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.backbone.pair = Pair()

        def extract_feat(self, inputs):
            levels = self.backbone(inputs)
            return [*levels[:-1], self.backbone.pair(levels[-1])[0]]

    config = segmentor_config()
    config.update(type=PairHost)
    settings = dict(SETTINGS, site='backbone.pair', levels=levels)
    with pytest.raises(ValueError, match=message):
        gradients(build(with_afan(config, neck=settings)), segmentation_batch())
    named = gradients(
        build(with_afan(config, neck=dict(settings, levels=(0,)))), segmentation_batch()
    )
    assert_close(
        named, gradients(build(with_afan(segmentor_config(), neck=SETTINGS)), segmentation_batch())
    )
