"""``objective='consistency'``: the gradients of one step against KL divergences written out on
explicit graphs, in float64, for a segmentor and a detector, with single sites and joint ones.
"""

import copy

import mmseg
import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox2roi

from support.exact import (
    EPSILON,
    RATIOS,
    assert_same,
    naive_mix,
)
from support.tiny import (
    build,
    detection_batch,
    detector_config,
    gradients,
    segmentation_batch,
    segmentor_config,
    with_afan,
)
from support.versions import older

SETTINGS = dict(
    epsilon=EPSILON,
    num_strengths=2,
    strengths='linspace',
    adv_weight=0.7,
    objective='consistency',
)
PGD = ((1, EPSILON, 'batch'), (3, 0.2, None))
L3, L4 = 'backbone.layer3', 'backbone.layer4'


def kl(clean, logits):
    """At each position; nothing learns from the clean logits."""
    p, q = clean.detach().softmax(1), logits.softmax(1)
    return (p * (p.log() - q.log())).sum(1)


def formula(model, clean_loss, features, tail, divergence, num_steps, step_size, kind, detach):
    """Gradients of the clean loss plus 0.7 times the divergences.

    Args:
        features: Of each site in the clean pass, in their order.
        tail: ``tail(feature, at)`` gives the logits from the first site's feature on; it calls
            ``at(name, feature)`` where a later site may be.
        divergence: Of the logits of a pass from the clean ones.
    """
    first = next(iter(features))

    def run(start, change):
        return tail(start, lambda name, f: change(name, f) if name in features else f)

    with torch.no_grad():
        expected = run(features[first], lambda name, f: f)
    deltas = {name: torch.zeros_like(f) for name, f in features.items()}
    for step in range(num_steps):
        if step == 0:
            grads = torch.autograd.grad(clean_loss, list(features.values()), retain_graph=True)
        else:
            leaves = {name: d.clone().requires_grad_() for name, d in deltas.items()}
            moved = run(
                features[first].detach() + leaves[first], lambda name, f, d=leaves: f + d[name]
            )
            grads = torch.autograd.grad(divergence(expected, moved), list(leaves.values()))
        deltas = {
            name: (d + step_size * g.sign()).clamp(-EPSILON, EPSILON).detach()
            for (name, d), g in zip(deltas.items(), grads)
        }
    total = clean_loss
    for ratio in RATIOS:

        def change(name, f, ratio=ratio):
            return naive_mix(f, ratio * deltas[name], kind)

        start = features[first].detach() if detach else features[first]
        total = total + 0.7 * divergence(expected, run(change(first, start), change))
    model.zero_grad()
    total.backward()
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }


def half_ignored():
    batch = segmentation_batch()
    for sample in batch['data_samples']:
        sample.gt_sem_seg.data[:, :13] = 255
    return batch


def segmentor_formula(model, batch, sites, detach, *pgd, class_weight=None):
    """``sites`` in their order; the auxiliary head, of weight 0.4, reads layer3."""
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data['data_samples']])
    valid, head = labels != 255, model.decode_head
    cut = (lambda t: t.detach()) if detach else (lambda t: t)
    shares = valid.double()
    if class_weight is not None:
        weights = torch.tensor(class_weight, dtype=torch.float64)
        shares = torch.where(valid, weights[labels.where(valid, 0)], 0.0)

    def as_labels(logits):
        return F.interpolate(logits, labels.shape[1:], mode='bilinear')

    def feature_of(low_level, high_level):
        pooled = F.interpolate(head.image_pool(high_level), high_level.shape[2:], mode='bilinear')
        middle = head.bottleneck(torch.cat([pooled, *head.aspp_modules(high_level)], 1))
        low_level = head.c1_bottleneck(low_level)
        middle = F.interpolate(middle, low_level.shape[2:], mode='bilinear')
        return head.sep_bottleneck(torch.cat([middle, low_level], 1))

    def auxiliary(feature):
        return as_labels(model.auxiliary_head([None, None, feature, None]))

    levels = model.backbone(data['inputs'])
    feature = feature_of(levels[0], levels[3])
    clean = [as_labels(head.conv_seg(feature)), auxiliary(levels[2])]
    # before mmseg 1.2 the average is over all pixels, whatever their weights
    plain = class_weight is None or older(mmseg, '1.2.0')
    count = labels.numel() if plain else shares.sum()
    each = [F.cross_entropy(logits, labels, reduction='none', ignore_index=255) for logits in clean]
    loss = (shares * each[0]).sum() / count + 0.4 * each[1].mean()

    def tail(start, at):
        if sites[0] == 'classifier':
            return [as_labels(head.conv_seg(start))]
        logits = []
        if sites[0] == L3:
            logits = [auxiliary(start)]
            start = at(L4, model.backbone.layer4(start))
        found = at('classifier', feature_of(cut(levels[0]), start))
        return [as_labels(head.conv_seg(found)), *logits]

    def divergence(expected, logits):
        main = (shares * kl(expected[0], logits[0])).sum() / count
        others = zip(expected[1:], logits[1:])
        return main + 0.4 * sum((kl(*pair) * valid).mean() for pair in others)

    features = {L3: levels[2], L4: levels[3], 'classifier': feature}
    features = {site: features[site] for site in sites}
    return formula(model, loss, features, tail, divergence, *pgd, detach)


def segmentor(sites, **settings):
    each = [dict(SETTINGS, site=site, joint=len(sites) > 1, **settings) for site in sites]
    neck = [site for site in each if site['site'] != 'classifier']
    head = [site for site in each if site['site'] == 'classifier']
    return with_afan(segmentor_config(), neck=neck or None, head=head or None)


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize(
    'sites',
    ((L3,), (L4,), ('classifier',), (L3, L4, 'classifier'), (L4, 'classifier')),
    ids='+'.join,
)
def test_segmentor(sites, detach):
    """Half of the pixels are ignored. The auxiliary head is in the tail of layer3 alone."""
    batch = half_ignored()
    for num_steps, step_size, kind in PGD:
        settings = dict(num_steps=num_steps, step_size=step_size, moments=kind, detach=detach)
        model = build(segmentor(sites, **settings)).double()
        stock = build(segmentor_config()).double()
        assert_same(
            gradients(model, batch),
            segmentor_formula(stock, batch, sites, detach, num_steps, step_size, kind),
        )


def test_class_weights_are_the_hosts():
    weights = [0.5, 1.0, 2.0, 0.1, 1.5]
    configs = segmentor(('classifier',), moments=None), segmentor_config()
    for config in configs:
        config.decode_head.loss_decode.update(class_weight=weights)
    model, stock = (build(config).double() for config in configs)
    batch = segmentation_batch()
    expected = segmentor_formula(
        stock, batch, ('classifier',), False, 1, EPSILON, None, class_weight=weights
    )
    assert_same(gradients(model, batch), expected)


def test_the_formula_is_sensitive():
    """The comparison would notice another direction, weight or pass."""
    batch, stock = half_ignored(), build(segmentor_config()).double()
    right = segmentor_formula(stock, batch, (L4,), True, 3, 0.2, None)
    for sites, *wrong in (
        ((L4,), True, 1, EPSILON, None),
        ((L4,), False, 3, 0.2, None),
        ((L4, 'classifier'), True, 3, 0.2, None),
        ((L4,), True, 3, 0.2, 'batch'),
    ):
        with pytest.raises(AssertionError):
            assert_same(segmentor_formula(stock, batch, sites, *wrong), right)
    other = segmentation_batch()  # none ignored
    with pytest.raises(AssertionError):
        assert_same(segmentor_formula(stock, other, (L4,), True, 3, 0.2, None), right)


def detector_formula(model, batch, sites, detach, *pgd):
    """``sites`` among 'pyramid' (its first level), 'map' and 'vector', on the clean pass's RoIs.
    The box regression and the RPN are in the clean loss alone.
    """
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    samples, roi_head = data['data_samples'], model.roi_head
    box_head = roi_head.bbox_head
    cut = (lambda t: t.detach()) if detach else (lambda t: t)
    pyramid = model.neck(model.backbone(data['inputs']))
    rpn_samples = copy.deepcopy(samples)
    for sample in rpn_samples:
        sample.gt_instances.labels = torch.zeros_like(sample.gt_instances.labels)
    rpn_losses, proposals = model.rpn_head.loss_and_predict(
        pyramid, rpn_samples, proposal_cfg=model.train_cfg.rpn_proposal
    )
    sampling = []
    for proposal, sample in zip(proposals, samples):
        proposal.priors = proposal.pop('bboxes')
        assigned = roi_head.bbox_assigner.assign(proposal, sample.gt_instances, None)
        sampling.append(roi_head.bbox_sampler.sample(assigned, proposal, sample.gt_instances))
    rois = bbox2roi([result.priors for result in sampling])

    def vector_of(feature):
        vector = feature.flatten(1)
        for layer in box_head.shared_fcs:
            vector = torch.relu(layer(vector))
        return vector

    def map_of(level):
        others = [cut(each) for each in pyramid[1:4]]
        return roi_head.bbox_roi_extractor([level, *others], rois)

    feature = roi_head.bbox_roi_extractor(pyramid[:4], rois)
    vector = vector_of(feature)
    losses = box_head.loss_and_target(
        box_head.fc_cls(vector), box_head.fc_reg(vector), rois, sampling, roi_head.train_cfg
    )['loss_bbox']
    loss = sum(sum(each) for key, each in rpn_losses.items() if 'loss' in key)
    loss = loss + losses['loss_cls'] + losses['loss_bbox']

    def tail(start, at):
        found = at('map', map_of(start)) if sites[0] == 'pyramid' else start
        found = found if sites[0] == 'vector' else at('vector', vector_of(found))
        return box_head.fc_cls(found)

    features = dict(pyramid=pyramid[0], map=feature, vector=vector)
    features = {site: features[site] for site in sites}
    return formula(
        model, loss, features, tail, lambda clean, found: kl(clean, found).mean(), *pgd, detach
    )


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize(
    'sites', (('pyramid',), ('map',), ('vector',), ('pyramid', 'map', 'vector')), ids='+'.join
)
def test_detector(sites, detach):
    """What counts is how the RoIs are classified."""
    batch = detection_batch(size=96)
    for num_steps, step_size, kind in PGD:
        settings = dict(
            SETTINGS,
            num_steps=num_steps,
            step_size=step_size,
            moments=kind,
            detach=detach,
            joint=len(sites) > 1,
        )
        neck = dict(settings, site='output', levels=[0], reuse_proposals=True)
        head = [dict(settings, site=site) for site in sites if site != 'pyramid']
        model = build(
            with_afan(
                detector_config(),
                neck=neck if 'pyramid' in sites else None,
                head=head or None,
            )
        ).double()
        stock = build(detector_config()).double()
        assert_same(
            gradients(model, batch),
            detector_formula(stock, batch, sites, detach, num_steps, step_size, kind),
        )
