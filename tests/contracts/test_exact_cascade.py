"""The gradients of one step of cascades and of heads with masks, against the formula of the paper
as one big graph, in float64.
"""

import copy

import pytest
import torch
from mmdet.structures.bbox import bbox2roi

from support.exact import (
    EPSILON,
    assert_same,
    objective_gradients,
)
from support.families import cascade_config
from support.tiny import build, detection_batch, gradients, with_afan


def masked_batch(size=64):
    """Objects with masks, and a map of classes at the stride of HTC's semantic branch."""
    import numpy as np
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import PixelData

    batch = detection_batch(size=size)
    for index, sample in enumerate(batch['data_samples']):
        masks = np.zeros((2, size, size), np.uint8)
        masks[:, 10:40, 10 + index : 50] = 1
        sample.gt_instances.masks = BitmapMasks(masks, size, size)
        sample.gt_sem_seg = PixelData(
            sem_seg=torch.arange(size // 8 * size // 8).reshape(1, size // 8, -1) % 5
        )
    return batch


def stages_of(model):
    """The box head, loss weight and training config of each stage."""
    head = model.roi_head
    if isinstance(head.bbox_head, torch.nn.ModuleList):
        return list(zip(head.bbox_head, head.stage_loss_weights, head.train_cfg))
    return [(head.bbox_head, 1, head.train_cfg)]


def cascade_formula(model, batch, site, num_steps, step_size, kind, detach):
    """Eq. 6 on explicit graphs, with the RoIs of each stage as the clean pass sampled them."""
    samplings, maps, vectors, handles = [], [], [], []
    stock = model.roi_head.bbox_loss

    def bbox_loss(*args, **kwargs):
        samplings.append(kwargs['sampling_results'] if 'sampling_results' in kwargs else args[-1])
        return stock(*args, **kwargs)

    model.roi_head.bbox_loss = bbox_loss
    for box_head, _, _ in stages_of(model):
        handles.append(
            box_head.register_forward_pre_hook(lambda module, args: maps.append(args[0]))
        )
        handles.append(
            box_head.fc_cls.register_forward_pre_hook(lambda module, args: vectors.append(args[0]))
        )
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    clean = model.parse_losses(model.loss(data['inputs'], data['data_samples']))[0]
    for handle in handles:
        handle.remove()

    def tail(stage, feature):
        box_head, weight, config = stages_of(model)[stage]
        if site == 'map':
            feature = feature.flatten(1)
            for layer in box_head.shared_fcs:
                feature = torch.relu(layer(feature))
        rois = bbox2roi([sampling.priors for sampling in samplings[stage]])
        losses = box_head.loss_and_target(
            box_head.fc_cls(feature), box_head.fc_reg(feature), rois, samplings[stage], config
        )
        return weight * (losses['loss_bbox']['loss_cls'] + losses['loss_bbox']['loss_bbox'])

    cut = (lambda t: t.detach()) if detach else (lambda t: t)
    places = [
        (feature, lambda f, stage=stage: tail(stage, f))
        for stage, feature in enumerate(vectors if site == 'vector' else maps)
    ]
    return objective_gradients(model, clean, places, num_steps, step_size, kind, cut)


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
@pytest.mark.parametrize(
    'family, site, kind',
    (
        ('cascade', 'vector', 'batch'),
        ('cascade', 'map', None),
        ('htc', 'map', 'batch'),
        ('htc', 'vector', 'layer'),
        ('mask', 'vector', 'batch'),
        ('mask', 'map', 'instance'),
    ),
)
def test_step_equals_the_formula(family, site, kind, detach):
    """A site for each stage, weighted as its stage; HTC adds its semantic feature to what its box
    heads read in place.
    """
    batch = masked_batch()
    for num_steps, step_size in ((1, EPSILON), (3, 0.2)):
        settings = dict(
            site=site,
            epsilon=EPSILON,
            num_steps=num_steps,
            step_size=step_size,
            moments=kind,
            detach=detach,
            num_strengths=2,
            strengths='linspace',
            adv_weight=0.7,
        )
        model = build(with_afan(cascade_config(family), head=settings)).double()
        stock = build(cascade_config(family)).double()
        assert_same(
            gradients(model, batch),
            cascade_formula(stock, batch, site, num_steps, step_size, kind, detach),
        )
