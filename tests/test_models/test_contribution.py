"""A head's adversarial losses enter the objective as its clean losses did: under the host's names,
with the host's weights.

The measure is the control: an unperturbed pass gives the clean gradient once more.
"""

import copy
import types

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from afan_mm.contribution import Contribution
from support.tiny import (
    assert_close,
    build,
    detection_batch,
    detector_config,
    gradients,
    segmentation_batch,
    segmentor_config,
    with_afan,
)

CONTROL = dict(perturbation='none', moments=None, num_strengths=2, epsilon=0.0)
FACTOR = 1 + CONTROL['num_strengths']


def leaf(*values):
    return torch.tensor(values if len(values) > 1 else values[0], requires_grad=True)


def test_names_and_weights_by_hand():
    """Losses 2 and (3, 5) of a part: halved and renamed, in a list, and once more in a sum."""
    ce, boxes = leaf(2.0), leaf(3.0, 5.0)
    other = leaf(7.0)
    of_host = {
        'decode.loss_ce': 0.5 * ce,
        'loss_rpn': other * 2,
        'loss_levels': [other * 3, 4 * boxes],
        'loss_sum': ce + boxes.sum() + other,
        'acc': torch.tensor(50.0),
    }
    contribution = Contribution(dict(loss_ce=ce, loss_bbox=boxes), of_host)
    entered = contribution(
        dict(loss_ce=torch.tensor(10.0), loss_bbox=torch.tensor([1.0, 2.0]), loss_new=ce)
    )
    assert set(entered) == {'loss_new', 'decode.loss_ce', 'loss_levels', 'loss_sum'}
    assert entered['decode.loss_ce'].item() == 5
    (level,) = entered['loss_levels']
    assert level.tolist() == [4, 8]
    assert entered['loss_sum'].item() == 10 + 3


@pytest.mark.parametrize('elements', (2, 3))
def test_another_number_of_elements_has_the_same_mean_weight(elements):
    boxes = leaf(3.0, 5.0)
    weighted = Contribution(dict(loss=boxes), dict(loss=4 * boxes))
    averaged = Contribution(dict(loss=boxes), dict(loss=4 * boxes.mean()))
    again = torch.arange(elements, dtype=torch.float32)
    assert weighted(dict(loss=again))['loss'].mean() == 4 * again.mean()
    assert averaged(dict(loss=again))['loss'] == 4 * again.mean()


def test_a_loss_that_the_host_drops_has_no_share():
    assert (
        Contribution(dict(loss_ce=leaf(2.0)), dict(loss_other=leaf(1.0)))(
            dict(loss_ce=torch.tensor(1.0))
        )
        == {}
    )


def by_name(model):
    """Its ``parse_losses`` weights one name."""
    stock = type(model).parse_losses

    def parse_losses(self, losses):
        return stock(
            self, {k: v * 0.25 if k.endswith('decode.loss_ce') else v for k, v in losses.items()}
        )

    model.parse_losses = types.MethodType(parse_losses, model)


def out_of_place(model):
    stock = type(model).loss
    model.loss = types.MethodType(
        lambda self, *args: {f'sup_{k}': 0.25 * v for k, v in stock(self, *args).items()}, model
    )


def in_place(model):
    stock = type(model).loss

    def loss(self, *args):
        losses = stock(self, *args)
        losses['decode.loss_ce'] *= 0.25
        return losses

    model.loss = types.MethodType(loss, model)


def a_total_beside_its_parts(model):
    """For the log, of which ``parse_losses`` adds up what is named a loss."""
    stock = model.decode_head.loss_by_feat

    def loss_by_feat(*args):
        ce = stock(*args)['loss_ce']
        return dict(loss=0.5 * ce + ce.square(), ce=ce, again=ce)

    model.decode_head.loss_by_feat = loss_by_feat


@pytest.mark.parametrize(
    'change',
    (by_name, out_of_place, in_place, a_total_beside_its_parts),
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize(
    'site', (dict(head=CONTROL), dict(neck=CONTROL), dict(head=[dict(CONTROL, site='bottleneck')]))
)
def test_a_segmentor_that_weights_its_losses(change, site):
    found = []
    for config in (segmentor_config(), with_afan(segmentor_config(), **site)):
        model = build(config)
        change(model)
        found.append(gradients(model, segmentation_batch())['decode_head.conv_seg.weight'])
    assert_close({'': found[1]}, {'': FACTOR * found[0]})


def test_two_sites_in_one_head():
    sites = [dict(CONTROL, site='bottleneck'), dict(CONTROL, site='classifier')]
    found = []
    for config in (segmentor_config(), with_afan(segmentor_config(), head=sites)):
        model = build(config)
        in_place(model)
        found.append(gradients(model, segmentation_batch())['decode_head.conv_seg.weight'])
    assert_close({'': found[1]}, {'': (2 * FACTOR - 1) * found[0]})


def semi_supervised(detector):
    config = ConfigDict(
        type='SemiBaseDetector',
        data_preprocessor=dict(
            type='MultiBranchDataPreprocessor', data_preprocessor=detector.pop('data_preprocessor')
        ),
        detector=detector,
        semi_train_cfg=dict(
            sup_weight=0.25, unsup_weight=0.0, cls_pseudo_thr=0.0, min_pseudo_bbox_wh=(0, 0)
        ),
        semi_test_cfg=dict(predict_on='student'),
    )
    init_default_scope('mmdet')
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(0)
        model = MODELS.build(config)
        model.init_weights()
    return model.train()


def branches():
    batches = [detection_batch(seed=seed) for seed in range(2)]
    for sample in batches[1]['data_samples']:
        sample.set_metainfo(dict(homography_matrix=torch.eye(3).numpy()))
    names = ('sup', 'unsup_teacher', 'unsup_student')
    each = (batches[0], batches[1], copy.deepcopy(batches[1]))
    return dict(
        inputs={name: batch['inputs'] for name, batch in zip(names, each)},
        data_samples={name: batch['data_samples'] for name, batch in zip(names, each)},
    )


@pytest.mark.parametrize('site', ('vector', 'map'))
def test_the_weight_of_a_semi_supervised_host(site):
    found = [
        gradients(semi_supervised(config), branches())['student.roi_head.bbox_head.fc_cls.weight']
        for config in (
            detector_config(),
            with_afan(detector_config(), head=dict(CONTROL, site=site)),
        )
    ]
    assert found[0].any()
    assert_close({'': found[1]}, {'': FACTOR * found[0]})
