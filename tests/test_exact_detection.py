"""The gradients of one step of Faster R-CNN, against the formula of the paper written out as one
big graph, in float64.
"""

import copy
import importlib

import pytest
import torch
from mmdet.structures.bbox import bbox2roi
from test_exact_segmentation import EPSILON, assert_same, objective_gradients
from tiny import build, detection_batch, detector_config, gradients, with_afan


@pytest.fixture(autouse=True)
def nms_in_double(monkeypatch):
    """mmcv's NMS kernel knows float32 only; which boxes it keeps is no matter of precision here."""
    nms = importlib.import_module('mmcv.ops.nms').NMSop
    stock = nms.forward
    monkeypatch.setattr(
        nms,
        'forward',
        staticmethod(
            lambda ctx, boxes, scores, *args: stock(ctx, boxes.float(), scores.float(), *args)
        ),
    )


def detection_formula(model, batch, sites, num_steps, step_size, kind, detach, reuse=False):
    """Eq. 6 on explicit graphs. ``sites``: 'stage' is C3 with the later stages in its tail, 'neck'
    C5, 'pyramid' P2, 'vector' the last RoI vector, 'map' the RoI feature map. With ``reuse`` a tail
    takes its losses on the clean pass's anchors and RoIs."""
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    samples, roi_head = data['data_samples'], model.roi_head
    kept = {}

    def box_losses(scores, deltas):
        losses = roi_head.bbox_head.loss_and_target(
            scores, deltas, kept['rois'], kept['sampling'], roi_head.train_cfg
        )['loss_bbox']
        return losses['loss_cls'] + losses['loss_bbox']

    def vectors_loss(vector):
        return box_losses(roi_head.bbox_head.fc_cls(vector), roi_head.bbox_head.fc_reg(vector))

    def fully_connected(feature_map):
        vector = feature_map.flatten(1)
        for layer in roi_head.bbox_head.shared_fcs:
            vector = torch.relu(layer(vector))
        return vector

    def detector_loss(pyramid, keep=False):
        rpn_samples = copy.deepcopy(samples)
        for sample in rpn_samples:
            sample.gt_instances.labels = torch.zeros_like(sample.gt_instances.labels)
        rpn_losses, proposals = model.rpn_head.loss_and_predict(
            pyramid, rpn_samples, proposal_cfg=model.train_cfg.rpn_proposal
        )
        if keep or not reuse:
            sampling = []
            for proposal, sample in zip(proposals, samples):
                proposal.priors = proposal.pop('bboxes')
                assigned = roi_head.bbox_assigner.assign(proposal, sample.gt_instances, None)
                sampling.append(
                    roi_head.bbox_sampler.sample(assigned, proposal, sample.gt_instances)
                )
            kept.update(sampling=sampling, rois=bbox2roi([result.priors for result in sampling]))
        feature_map = roi_head.bbox_roi_extractor(pyramid[:4], kept['rois'])
        vector = fully_connected(feature_map)
        if keep:
            kept.update(map=feature_map, vector=vector)
        rpn = sum(sum(losses) for key, losses in rpn_losses.items() if 'loss' in key)
        return rpn + vectors_loss(vector)

    levels = model.backbone(data['inputs'])
    pyramid = model.neck(levels)
    clean = detector_loss(pyramid, keep=True)
    cut = (lambda t: t.detach()) if detach else (lambda t: t)

    def later_stages(f):
        c4 = model.backbone.layer3(f)
        return [cut(levels[0]), f, c4, model.backbone.layer4(c4)]

    places = dict(
        stage=(levels[1], lambda f: detector_loss(model.neck(later_stages(f)))),
        vector=(kept['vector'], vectors_loss),
        map=(kept['map'], lambda f: vectors_loss(fully_connected(f))),
        pyramid=(pyramid[0], lambda f: detector_loss([f] + [cut(level) for level in pyramid[1:]])),
        neck=(
            levels[-1],
            lambda f: detector_loss(model.neck([cut(level) for level in levels[:-1]] + [f])),
        ),
    )
    # A neck's site last: its tail samples RoIs of its own.
    return objective_gradients(
        model,
        clean,
        [places[site] for site in sorted(sites, reverse=True)],
        num_steps,
        step_size,
        kind,
        cut,
    )


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize(
    'sites, kind',
    (
        (('vector',), 'batch'),
        (('vector',), 'positional'),
        (('map',), 'instance'),
        (('neck',), 'batch'),
        (('pyramid',), 'layer'),
        (('neck', 'vector'), None),
    ),
)
def test_step_equals_the_formula(sites, kind, detach):
    batch = detection_batch(size=96)
    for num_steps, step_size in ((1, EPSILON), (3, 0.2)):
        settings = dict(
            epsilon=EPSILON,
            num_steps=num_steps,
            step_size=step_size,
            moments=kind,
            detach=detach,
            num_strengths=2,
            strengths='linspace',
            adv_weight=0.7,
        )
        necks = dict(neck=settings, pyramid=dict(settings, site='output', levels=[0]))
        neck = next((necks[site] for site in sites if site in necks), None)
        head = next((dict(settings, site=site) for site in sites if site not in necks), None)
        model = build(with_afan(detector_config(), neck=neck, head=head)).double()
        stock = build(detector_config()).double()
        assert_same(
            gradients(model, batch),
            detection_formula(stock, batch, sites, num_steps, step_size, kind, detach),
        )
