"""Sites of mmseg and mmdet models perturbed together, across components and within one: the
gradients of one step against explicit graphs, in float64.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox2roi

from support.exact import EPSILON, assert_same
from support.families import cascade_config
from support.joint import joint_gradients
from support.tiny import (
    assert_identical,
    build,
    detection_batch,
    detector_config,
    gradients,
    optim_wrapper,
    parameters,
    segmentation_batch,
    segmentor_config,
    train,
    with_afan,
)

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


def cascade_of_boxes():
    config = cascade_config('cascade')
    for key in ('mask_head', 'mask_roi_extractor'):
        config.roi_head.pop(key)
    return config


def detector_gradients(model, batch, sites, detach, **options):
    """Eq. 6 on explicit graphs, on the clean pass's anchors and RoIs; ``sites`` are the 'pyramid'
    (its first level), and for each stage s of the RoI head 'map.s' and 'vector.s', in their order.
    """
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    samples, roi_head, first = data['data_samples'], model.roi_head, sites[0]
    cascade = isinstance(roi_head.bbox_head, torch.nn.ModuleList)
    heads = list(roi_head.bbox_head) if cascade else [roi_head.bbox_head]
    samplings, features, stock = [], {}, roi_head.bbox_loss

    def keep_samples(*args, **kwargs):
        samplings.append(kwargs.get('sampling_results', args[-1] if args else None))
        return stock(*args, **kwargs)

    roi_head.bbox_loss = keep_samples
    pyramid = model.neck(model.backbone(data['inputs']))
    rpn_samples = copy.deepcopy(samples)
    for sample in rpn_samples:
        sample.gt_instances.labels = torch.zeros_like(sample.gt_instances.labels)

    def rpn(levels):
        losses, proposals = model.rpn_head.loss_and_predict(
            levels, rpn_samples, proposal_cfg=model.train_cfg.rpn_proposal
        )
        return sum(sum(each) for key, each in losses.items() if 'loss' in key), proposals

    roi_head.loss(pyramid, rpn(pyramid)[1], samples)
    del roi_head.bbox_loss

    def stage_loss(stage, levels, at):
        rois = bbox2roi([sampling.priors for sampling in samplings[stage]])
        extractor = roi_head.bbox_roi_extractor
        extractor = extractor[stage] if cascade else extractor
        return from_map(stage, at(f'map.{stage}', extractor(levels[:4], rois)), at)

    def from_map(stage, feature, at):
        vector = feature.flatten(1)
        for layer in heads[stage].shared_fcs:
            vector = torch.relu(layer(vector))
        return from_vector(stage, at(f'vector.{stage}', vector))

    def from_vector(stage, vector):
        head, config = heads[stage], roi_head.train_cfg
        losses = head.loss_and_target(
            head.fc_cls(vector),
            head.fc_reg(vector),
            bbox2roi([sampling.priors for sampling in samplings[stage]]),
            samplings[stage],
            config[stage] if cascade else config,
        )['loss_bbox']
        weight = roi_head.stage_loss_weights[stage] if cascade else 1
        return weight * (losses['loss_cls'] + losses['loss_bbox'])

    def detect(level, at, others):
        levels = [level, *others]
        return rpn(levels)[0] + sum(stage_loss(s, levels, at) for s in range(len(heads)))

    def keep(name, feature):
        features[name] = feature
        return feature

    clean = detect(keep('pyramid', pyramid[0]), keep, pyramid[1:])
    cut = (lambda t: t.detach()) if detach else (lambda t: t)

    def tail(feature, at):
        if first == 'pyramid':
            return detect(feature, at, [cut(level) for level in pyramid[1:]])
        kind, stage = first.split('.')
        return from_map(int(stage), feature, at) if kind == 'map' else None

    return joint_gradients(
        model, clean, {site: features[site] for site in sites}, tail, detach=detach, **options
    )


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize(
    'host, neck, head',
    (
        ('plain', True, ('vector',)),
        ('plain', True, ('vector', 'map')),
        ('plain', False, ('map', 'vector')),
        ('cascade', True, ('vector',)),
        ('cascade', True, ('map', 'vector')),
    ),
)
def test_detector(host, neck, head, detach):
    """Proposals and RoIs are those of the clean pass, which the directions are for; in a cascade
    those of each stage.
    """
    config = cascade_of_boxes() if host == 'cascade' else detector_config()
    batch = detection_batch(size=96)
    stages = range(2 if host == 'cascade' else 1)
    sites = ['pyramid'] if neck else []
    sites += [f'{kind}.{stage}' for stage in stages for kind in ('map', 'vector') if kind in head]
    for num_steps, step_size, kind in ((1, EPSILON, 'batch'), (3, 0.2, None)):
        settings = dict(
            SETTINGS, num_steps=num_steps, step_size=step_size, moments=kind, detach=detach
        )
        model = build(
            with_afan(
                config,
                neck=dict(settings, site='output', levels=[0]) if neck else None,
                head=[dict(settings, site=site) for site in head],
            )
        ).double()
        options = dict(num_steps=num_steps, step_size=step_size, kind=kind)
        assert_same(
            gradients(model, batch),
            detector_gradients(build(config).double(), batch, sites, detach, **options),
        )


def test_stages_of_a_cascade_alone_are_refused():
    """The loss of one stage does not lead to the next."""
    model = build(with_afan(cascade_of_boxes(), head=dict(SETTINGS)))
    with pytest.raises(RuntimeError, match=r"'roi_head.s1'.*'roi_head.s0'"):
        gradients(model, detection_batch())


def test_a_head_that_does_not_read_the_first_site_is_not_left_out():
    """The auxiliary head reads layer3, the first site is layer4: the second, in the auxiliary
    head, is perturbed all the same, on a feature that is the clean one.
    """
    settings = dict(SETTINGS, moments=None)
    config = with_afan(segmentor_config(), neck=dict(settings, site='backbone.layer4'))
    config.auxiliary_head.update(
        type='AFANDecodeHead', base='FCNHead', afan=dict(settings, name='auxiliary')
    )
    model, batch = build(config).double(), segmentation_batch()
    ours = gradients(model, batch)
    parts = []
    for neck, auxiliary in ((settings, None), (None, settings)):
        config = with_afan(
            segmentor_config(),
            neck=None if neck is None else dict(neck, site='backbone.layer4'),
        )
        if auxiliary:
            config.auxiliary_head.update(type='AFANDecodeHead', base='FCNHead', afan=auxiliary)
        parts.append(gradients(build(config).double(), batch))
    stock = gradients(build(segmentor_config()).double(), batch, None)
    added = {
        name: parts[0][name] + parts[1][name] - clean
        for name, clean in stock.items()
        # only what both passes reach past their features is not a sum
        if name.startswith(('decode_head', 'auxiliary_head'))
    }
    assert_same({name: ours[name] for name in added}, added)


@pytest.mark.parametrize('host', ('segmentor', 'detector'))
def test_inert_where_it_is_off(host):
    """``num_strengths=0``: steps bit-identical to stock; a stock wrapper ignores the sites."""
    config = segmentor_config() if host == 'segmentor' else detector_config()
    batches = [
        (segmentation_batch if host == 'segmentor' else detection_batch)(seed=i) for i in range(3)
    ]
    states = []
    for afan, kind in (
        (None, 'OptimWrapper'),
        (dict(joint=True), 'OptimWrapper'),
        (dict(joint=True, num_strengths=0), 'AFANOptimWrapper'),
    ):
        model = build(with_afan(config, neck=afan, head=afan))
        torch.manual_seed(3)
        train(model, optim_wrapper(model, kind), batches)
        states.append(parameters(model))
    assert_identical(states[1], states[0])
    assert_identical(states[2], states[0])
