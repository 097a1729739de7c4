"""The formula of the paper on explicit graphs, in float64."""

import copy
import importlib

import pytest
import torch
from mmdet.structures.bbox import bbox2roi

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
