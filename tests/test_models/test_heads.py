"""Decode heads that do not compute their loss in the usual way, and what a host remembers from step
to step.
"""

import ast
import copy
import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapperDict
from mmengine.registry import MODELS
from mmseg.models.decode_heads import DepthwiseSeparableASPPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import nn

from afan_mm import AFANSettings, tap
from afan_mm.declared import declared_sites
from afan_mm.engine.site_table import check_sites
from afan_mm.isolation import restored_state
from support.exact import EPSILON, assert_same, objective_gradients
from support.tiny import (
    build,
    gradients,
    optim_wrapper,
    segmentation_batch,
    segmentor_config,
    train,
    with_afan,
)
from support.toy import batch, host

SETTINGS = dict(
    epsilon=EPSILON,
    step_size=EPSILON,
    moments='batch',
    num_strengths=2,
    strengths='linspace',
    adv_weight=0.7,
)


@MODELS.register_module()
class TripledLossHead(DepthwiseSeparableASPPHead):
    """A loss of its own, made of that of the stock head."""

    def loss(self, *args, **kwargs):
        return {key: 3 * value for key, value in super().loss(*args, **kwargs).items()}


@MODELS.register_module()
class PairHead(BaseDecodeHead):
    """Its forward returns two tensors, and its loss reads both; the second loss does not depend on
    the classifier's input.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.convs = nn.Conv2d(64, 4, 1)

    def forward(self, inputs):
        low, high = self._transform_inputs(inputs)
        return self.cls_seg(torch.tanh(self.convs(high))), low

    def loss_by_feat(self, pair, samples):
        return dict(super().loss_by_feat(pair[0], samples), loss_low=pair[1].square().mean())


@MODELS.register_module()
class OwnHead(nn.Module):
    """Nothing of BaseDecodeHead but the method that the segmentor calls; its stem returns two
    tensors.
    """

    align_corners, num_classes, out_channels = False, 5, 5

    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.high = nn.Conv2d(8, 4, 1), nn.Conv2d(64, 4, 1)

        def forward(self, inputs):
            return self.low(inputs[0]), self.high(inputs[-1])

    def __init__(self):
        super().__init__()
        self.stem, self.classify = self.Stem(), nn.Conv2d(4, 5, 1)

    def loss(self, inputs, data_samples, train_cfg):
        return self.losses(*self.stem(inputs), data_samples)

    def losses(self, low, high, data_samples):
        logits = self.classify(torch.tanh(low + F.interpolate(high, low.shape[2:])))
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples])
        return dict(loss_own=F.cross_entropy(F.interpolate(logits, labels.shape[1:]), labels))


def config_of(head):
    model = segmentor_config(auxiliary=False)
    if head == 'OwnHead':
        model.decode_head = dict(type=head)
    elif head == 'PairHead':
        model.decode_head = dict(
            type=head,
            channels=4,
            dropout_ratio=0,
            num_classes=5,
            in_channels=[8, 64],
            in_index=[0, 3],
            input_transform='multiple_select',
            loss_decode=dict(type='CrossEntropyLoss'),
        )
    else:
        model.decode_head.type = head
    return model


def test_loss_made_of_the_stock_loss():
    """Scaling in the head's own ``loss`` is part of the tail."""
    scaled = segmentor_config()
    scaled.decode_head.loss_decode.loss_weight *= 3
    ours = gradients(
        build(with_afan(config_of('TripledLossHead'), head=SETTINGS)).double(), segmentation_batch()
    )
    model = segmentor_config(auxiliary=False)
    model.decode_head.loss_decode.loss_weight *= 3
    assert_same(
        ours, gradients(build(with_afan(model, head=SETTINGS)).double(), segmentation_batch())
    )


@pytest.mark.parametrize('detach', (True, False), ids=('detached', 'attached'))
def test_head_that_returns_two_tensors(detach):
    """The loss that the classifier's input does not enter is counted once."""
    data = segmentation_batch()
    ours = gradients(
        build(with_afan(config_of('PairHead'), head=dict(SETTINGS, detach=detach))).double(), data
    )
    stock = build(config_of('PairHead')).double()
    head, batch = stock.decode_head, stock.data_preprocessor(copy.deepcopy(data), True)
    low, high = head._transform_inputs(stock.backbone(batch['inputs']))
    feature = torch.tanh(head.convs(high))

    def tail(feature):
        return BaseDecodeHead.loss_by_feat(head, head.conv_seg(feature), batch['data_samples'])[
            'loss_ce'
        ]

    cut = (lambda t: t.detach()) if detach else (lambda t: t)
    clean = tail(feature) + low.square().mean()
    assert_same(
        ours, objective_gradients(stock, clean, [(feature, tail)], 1, EPSILON, 'batch', cut)
    )


@pytest.mark.parametrize('levels', ([0], [1], [0, 1]), ids=str)
def test_head_of_one_s_own_with_several_tensors_at_the_site(levels):
    data = segmentation_batch()
    config = with_afan(
        config_of('OwnHead'), head=dict(SETTINGS, site='stem', levels=levels, moments=None)
    )
    ours = gradients(build(config).double(), data)
    stock = build(config_of('OwnHead')).double()
    batch = stock.data_preprocessor(copy.deepcopy(data), True)
    parts = list(stock.decode_head.stem(stock.backbone(batch['inputs'])))

    def loss(*perturbed):
        features = list(parts)
        for level, feature in zip(levels, perturbed):
            features[level] = feature
        return stock.decode_head.losses(*features, batch['data_samples'])['loss_own']

    clean = loss(*[parts[level] for level in levels])
    directions = [
        grad.sign()
        for grad in torch.autograd.grad(
            clean, [parts[level] for level in levels], retain_graph=True
        )
    ]
    total = clean + sum(
        0.7 * loss(*[parts[level] + ratio * EPSILON * d for level, d in zip(levels, directions)])
        for ratio in (0.5, 1)
    )
    stock.zero_grad()
    total.backward()
    assert_same(ours, {name: p.grad for name, p in stock.named_parameters()})


def test_head_without_a_classifier_names_the_sites_there_are():
    with pytest.raises(
        ValueError,
        match=r"AFANDecodeHead of 'OwnHead': site must be one of \['stem', 'classify'\] .*, but got 'classifier'",
    ):
        build(with_afan(config_of('OwnHead'), head=SETTINGS))


def test_neck_of_two_modules():
    """The wrapper takes the place of the first; its tail is the second and everything after it."""
    data = segmentation_batch()
    parts = [
        dict(
            type='MultiLevelNeck', in_channels=[8, 16, 32, 64], out_channels=8, scales=[1, 1, 1, 1]
        ),
        dict(type='MultiLevelNeck', in_channels=[8] * 4, out_channels=8, scales=[1, 1, 1, 1]),
    ]
    config = segmentor_config(auxiliary=False)
    config.decode_head.update(in_channels=8)
    config.neck = parts
    ours = dict(
        config,
        neck=[
            dict(parts[0], type='AFANNeckWrapper', base='MultiLevelNeck', afan=SETTINGS),
            parts[1],
        ],
    )
    stock = build(config).double()
    batch = stock.data_preprocessor(copy.deepcopy(data), True)
    levels = stock.backbone(batch['inputs'])

    def tail(f):
        return stock.decode_head.loss(stock.neck((*levels[:-1], f)), batch['data_samples'], None)[
            'loss_ce'
        ]

    expected = objective_gradients(
        stock, tail(levels[-1]), [(levels[-1], tail)], 1, EPSILON, 'batch', lambda t: t
    )
    assert_same(gradients(build(ours).double(), data), expected)


class Remembering(nn.Module):
    """Counts, collects and averages as some of mmdet's and mmseg's modules do while they train."""

    def __init__(self):
        super().__init__()
        self.count, self.history, self.table = 0, [], {}
        self.register_buffer('replaced', torch.zeros(()))
        self.register_buffer('filled', torch.zeros(2))

    def forward(self, x):
        self.count += 1
        self.history.append(self.count)
        self.table[self.count] = 'seen'
        self.replaced = self.replaced + 1
        self.filled[0] += 2
        return x


def test_state_is_put_back_also_after_an_error():
    module = nn.Sequential(Remembering())
    module(torch.zeros(1))
    history = module[0].history
    for error in (None, KeyError):
        try:
            with restored_state(module):
                module(torch.zeros(1))
                assert module[0].count == 2 and float(module[0].filled[0]) == 4
                if error:
                    raise error
        except KeyError:
            pass
        inner = module[0]
        assert (inner.count, inner.history, inner.table) == (
            1,
            [1],
            {1: 'seen'},
        ) and inner.history is history
        assert float(inner.replaced) == 1 and inner.filled.tolist() == [2, 0]


@pytest.mark.parametrize('bn_stats, count', (('clean', 2), ('all', 6)))
def test_a_host_s_memory_sees_the_clean_pass_alone(bn_stats, count):
    def losses(model, x, y):
        def tail(f):
            return dict(loss=F.cross_entropy(model.classifier(model.memory(f)), y))

        return tail(
            tap(
                'site',
                model.front(x),
                tail,
                AFANSettings(name='site', num_strengths=2, bn_stats=bn_stats),
            )
        )

    model = host(losses)
    model.memory = Remembering()
    for _ in range(2):
        model.train_step(batch(), optim_wrapper(model))
    assert model.memory.count == count  # with 'all', one clean and two adversarial passes a step


class Pair(BaseModel):
    """A student beside its frozen teacher, both built from one config."""

    def __init__(self, config):
        super().__init__()
        self.student, self.teacher = build(config), build(config)
        self.teacher.requires_grad_(False)

    def loss(self, inputs, data_samples):
        with torch.no_grad():
            self.teacher.loss(inputs, data_samples)
        return self.student.loss(inputs, data_samples)

    def forward(self, inputs, data_samples, mode='loss'):
        data = self.student.data_preprocessor(dict(inputs=inputs, data_samples=data_samples), True)
        return self.loss(**data)


def test_a_teacher_that_is_a_site_itself_is_none():
    """As a model does that was built with ``AFANModel``."""
    pair = Pair(segmentor_config())
    pair.student.afan = pair.teacher.afan = AFANSettings(name='stage')
    assert [path for path, _ in declared_sites(pair)] == ['student']


def test_several_optimizers_are_refused():
    sites = declared_sites(build(with_afan(segmentor_config(), neck=SETTINGS)))
    with pytest.raises(RuntimeError, match='one optimizer, .* dict of several.*paramwise_cfg'):
        check_sites(sites, OptimWrapperDict)


def test_teacher_has_no_sites():
    """It declares them, as the student does; the step is that of the student alone."""
    config = with_afan(segmentor_config(), neck=SETTINGS, head=SETTINGS)
    pair, data = Pair(config), segmentation_batch()
    sites = declared_sites(pair)
    assert [path for path, _ in sites] == ['student.neck', 'student.decode_head']
    check_sites(sites, type(optim_wrapper(pair)))
    ours = gradients(pair, data)
    alone = gradients(build(config), data)
    for name, expected in alone.items():
        torch.testing.assert_close(ours[f'student.{name}'], expected, msg=name)


def test_every_site_that_a_refusal_suggests_trains_or_says_what_it_needs():
    """DeepLabV3+'s seven; its ASPP gives a tensor for each dilation. Beside a stock step that
    starts from the same weights: the clean loss is the same, the update is not.
    """

    def model(site):
        return build(with_afan(segmentor_config(), head=dict(epsilon=0.3, site=site)))

    stock = build(segmentor_config())
    (expected,) = train(stock, optim_wrapper(stock, 'OptimWrapper'), [segmentation_batch()])
    with pytest.raises(ValueError, match='site must be one of') as refusal:
        model('gone')
    sites = ast.literal_eval(re.search(r'one of (\[.*?\]) or', str(refusal.value)).group(1))
    assert len(sites) == len(set(sites)) == 7 and 'aspp_modules' in sites
    for site in sites:
        ours = model(site)
        wrapper = optim_wrapper(ours)
        if site == 'aspp_modules':
            with pytest.raises(ValueError, match='levels must be given .* returns 4 tensors'):
                train(ours, wrapper, [segmentation_batch()])
            continue
        (log,) = train(ours, wrapper, [segmentation_batch()])
        assert log['decode.loss_ce'] == pytest.approx(expected['decode.loss_ce'], rel=1e-6)
        weight = ours.decode_head.conv_seg.weight
        assert weight.isfinite().all(), site
        assert not torch.allclose(weight, stock.decode_head.conv_seg.weight), site
