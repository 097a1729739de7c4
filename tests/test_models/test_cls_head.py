"""The vector that a classifier's last layer reads as a site, in mmpretrain's heads and with their
kinds of targets.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.hub import get_config
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from afan_mm.conversion import ConversionError, convert
from support.tiny import gradients_at_updates, optim_wrapper, seed_everything
from support.versions import counts_operations

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample  # noqa: E402  after its importorskip

CLASSES, CHANNELS, EPSILON, RATIOS = 5, 6, 0.3, (0.5, 1.0)
AFAN = dict(epsilon=EPSILON, num_strengths=2, strengths='linspace', moments=None, adv_weight=0.7)


@MODELS.register_module()
class TinyBackbone(nn.Module):
    """Two stages."""

    def __init__(self, vector=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.stage = nn.Conv2d(4, CHANNELS, 3)

    def forward(self, inputs):
        return (self.stage(self.stem(inputs).tanh()).tanh(),)


@MODELS.register_module()
class TinyTokens(TinyBackbone):
    """What the head of a transformer reads."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, inputs):
        vector = super().forward(inputs)[0].mean((2, 3))
        return (([vector, vector.tanh()] if self.kind == 'two' else vector),)


def build(config):
    seed_everything(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(copy.deepcopy(config))
    for parameter in model.parameters():  # some heads start from zero
        nn.init.normal_(parameter, std=0.3)
    return model.train()


def classifier(head, neck=True, backbone='TinyBackbone', sites=('head',), **kwargs):
    if 'head' in sites:
        head = dict(head, type='AFANClsHead', base=head['type'], afan=AFAN)
    base = 'GlobalAveragePooling' if neck else None
    necks = (
        dict(type='AFANNeckWrapper', base=base, afan=AFAN)
        if 'neck' in sites
        else (dict(type=base) if neck else None)
    )
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=backbone if isinstance(backbone, dict) else dict(type=backbone),
        neck=necks,
        head=head,
        data_preprocessor=dict(num_classes=CLASSES),
        **kwargs,
    )


LINEAR = dict(type='LinearClsHead', num_classes=CLASSES, in_channels=CHANNELS)


def batch(targets='hard', size=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 12, 12, generator=generator)
    samples = []
    for index in range(size):
        if targets == 'hard':
            sample = DataSample().set_gt_label(index % CLASSES)
        elif targets == 'several':
            sample = DataSample().set_gt_label([index % CLASSES, (index + 1) % CLASSES])
        else:
            score = torch.rand(CLASSES, generator=generator).double()
            sample = DataSample().set_gt_score(score / score.sum())
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def smoothed(labels, share=0.1):
    return F.one_hot(labels, CLASSES) * (1 - share) + share / CLASSES


TARGETS = {
    'hard': (dict(type='CrossEntropyLoss'), lambda x, y: F.cross_entropy(x, y)),
    'soft': (
        dict(type='CrossEntropyLoss', use_soft=True),
        lambda x, y: -(y * x.log_softmax(1)).sum(1).mean(),
    ),
    'smooth': (
        dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        lambda x, y: -(smoothed(y) * x.log_softmax(1)).sum(1).mean(),
    ),
}


@pytest.mark.parametrize('sites', (('head',), ('head', 'neck')))
@pytest.mark.parametrize('kind', TARGETS)
def test_gradients_are_those_of_the_formula(kind, sites):
    loss, formula = TARGETS[kind]
    model = build(classifier(dict(LINEAR, loss=loss), sites=sites)).double()
    data = batch('soft' if kind == 'soft' else 'hard')
    data['inputs'] = data['inputs'].double()
    model.data_preprocessor = BaseDataPreprocessor()  # mmpretrain's casts to float32
    stock = copy.deepcopy(model)
    (ours,) = gradients_at_updates(model, optim_wrapper(model), [data])

    samples = data['data_samples']
    y = (
        torch.stack([s.gt_score for s in samples])
        if kind == 'soft'
        else torch.cat([s.gt_label for s in samples])
    )

    def tail(vector):
        return formula(stock.head.fc(vector), y)

    feature = stock.backbone(data['inputs'])[0]
    vector = feature.mean((2, 3))
    clean = total = tail(vector)
    places = [(vector, tail)]
    if 'neck' in sites:
        places.append((feature, lambda feature: tail(feature.mean((2, 3)))))
    for place, tail_of_place in places:
        (gradient,) = torch.autograd.grad(clean, place, retain_graph=True)
        for ratio in RATIOS:
            moved = place + ratio * EPSILON * gradient.sign()
            total = total + 0.7 * tail_of_place(moved)
    total.backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize('sites', (('head',), ('head', 'neck')), ids='+'.join)
@pytest.mark.parametrize('kind', TARGETS)
def test_consistency_is_the_divergence_whatever_the_targets(kind, sites):
    """The clean loss has them; one site alone, and two jointly, with a second step of PGD on the
    divergence.
    """
    loss, formula = TARGETS[kind]
    settings = dict(AFAN, objective='consistency', num_steps=2, step_size=0.2)
    config = classifier(dict(LINEAR, loss=dict(loss, loss_weight=3.0)), sites=sites)
    for part in sites:
        config[part]['afan'] = dict(settings, joint=len(sites) > 1)
    model = build(config).double()
    data = batch('soft' if kind == 'soft' else 'hard')
    data['inputs'] = data['inputs'].double()
    model.data_preprocessor = BaseDataPreprocessor()
    stock = copy.deepcopy(model)
    (ours,) = gradients_at_updates(model, optim_wrapper(model), [data])

    y = (
        torch.stack([s.gt_score for s in data['data_samples']])
        if kind == 'soft'
        else torch.cat([s.gt_label for s in data['data_samples']])
    )
    feature = stock.backbone(data['inputs'])[0]
    vector = feature.mean((2, 3))
    clean = 3 * formula(stock.head.fc(vector), y)
    p = stock.head.fc(vector).softmax(1).detach()
    joint = 'neck' in sites
    places = [feature, vector] if joint else [vector]

    def divergence(places, deltas):
        moved = places[0] + deltas[0]
        if joint:
            moved = moved.mean((2, 3)) + deltas[1]
        q = stock.head.fc(moved).softmax(1)
        return 3 * (p * (p.log() - q.log())).sum(1).mean()

    grads = torch.autograd.grad(clean, places, retain_graph=True)
    deltas = [(0.2 * g.sign()).requires_grad_() for g in grads]
    grads = torch.autograd.grad(divergence([f.detach() for f in places], deltas), deltas)
    deltas = [(d + 0.2 * g.sign()).clamp(-EPSILON, EPSILON).detach() for d, g in zip(deltas, grads)]
    total = clean
    for ratio in RATIOS:
        total = total + 0.7 * divergence(places, [ratio * d for d in deltas])
    total.backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-8, atol=1e-12)


VECTOR = dict(type='TinyTokens', kind='one')
HEADS = {
    'LinearClsHead': ({}, {}),
    'StackedLinearClsHead': (dict(mid_channels=[7], dropout_rate=0.1), {}),
    'MultiLabelLinearClsHead': ({}, dict(targets='several')),
    'CSRAClsHead': (
        dict(num_heads=2, lam=0.1, loss=dict(type='CrossEntropyLoss', use_sigmoid=True)),
        dict(neck=False, targets='several'),
    ),
    'VisionTransformerClsHead': (dict(hidden_dim=7), dict(neck=False, backbone=VECTOR)),
    'ArcFaceClsHead': ({}, {}),
    'ConformerHead': (
        dict(in_channels=[CHANNELS, CHANNELS]),
        dict(neck=False, backbone=dict(type='TinyTokens', kind='two')),
    ),
    'VigClsHead': (dict(hidden_dim=7), {}),
    'LeViTClsHead': (dict(distillation=False), {}),
    'EfficientFormerClsHead': (dict(distillation=False), {}),
}


@pytest.mark.parametrize('kind', HEADS)
def test_heads_of_mmpretrain(kind):
    """Each has a site where it classifies, and an adversarial pass that is not the clean one."""
    changes, options = HEADS[kind]
    options = dict(options)
    targets = options.pop('targets', 'hard')
    head = dict(dict(LINEAR, type=kind), **changes)
    stock, model = (build(classifier(head, sites=sites, **options)) for sites in ((), ('head',)))
    assert list(model.state_dict()) == list(stock.state_dict())
    (expected,), (ours,) = (
        gradients_at_updates(each, optim_wrapper(each), [batch(targets)]) for each in (stock, model)
    )
    # three passes in place of one, two of them in a direction in which the loss rises
    clean, total = (g['backbone.stage.weight'].norm() for g in (expected, ours))
    assert total > 1.2 * clean > 0


def test_mixup_and_cutmix_reach_the_adversarial_passes():
    """The mixed targets, drawn once, are those of both passes."""
    augments = dict(augments=[dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)])
    model = build(classifier(LINEAR, train_cfg=augments))
    seen, stock = [], model.head.loss_module.forward

    def loss(scores, target, **kwargs):
        seen.append(target.clone())
        return stock(scores, target, **kwargs)

    model.head.loss_module.forward = loss
    for _ in range(4):
        model.train_step(batch(), optim_wrapper(model))
    assert len(seen) == 4 * 3
    for step in range(4):
        clean, *adversarial = seen[3 * step : 3 * step + 3]
        assert clean.shape == (4, CLASSES)
        assert all(torch.equal(clean, each) for each in adversarial)
    assert any(bool((each != each.round()).any()) for each in seen)


def test_ema_and_a_runner(tmp_path):
    """A real run with an exponential moving average, evaluated by its own weights."""

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            data = batch()
            return dict(inputs=data['inputs'][index], data_samples=data['data_samples'][index])

    loader = dict(
        dataset=Images(),
        batch_size=4,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    runner = Runner(
        model=classifier(LINEAR, sites=('head', 'neck')),
        work_dir=str(tmp_path),
        experiment_name='ema',
        default_scope='mmpretrain',
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        train_cfg=dict(by_epoch=False, max_iters=2, val_interval=2),
        val_cfg={},
        optim_wrapper=dict(type='AFANOptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='AFANHook', interval=1), dict(type='EMAHook')],
        log_level='WARNING',
    )
    runner.train()
    (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert int(ema.ema_model.steps) == 2
    assert 'val/accuracy/top1' in runner.message_hub.log_scalars


def config(model):
    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        )
    )


def test_conversion():
    """The paper's site alone, and the head's where it is asked for."""
    stock = config(classifier(LINEAR, sites=()))
    conversion = convert(stock, preset='paper', epsilon=0.1)
    assert list(conversion.overrides['model']) == ['neck']
    assert conversion.left_out == [
        ('model.head', 'the paper has no site there; ask for it by its name')
    ]
    head = dict(type='AFANClsHead', base='LinearClsHead', afan=dict(epsilon=0.1, num_strengths=3))
    assert convert(stock, ['head'], 'paper', epsilon=0.1).overrides['model'] == dict(head=head)
    head['afan'] = dict(site='fc', epsilon=0.1, num_strengths=3)
    assert convert(stock, ['head.fc'], 'paper', epsilon=0.1).overrides['model'] == dict(head=head)


def test_a_head_that_is_a_loss_and_nothing_else():
    """The backbone of LeNet and VGG classifies itself."""
    with pytest.raises(ValueError, match="has none, .* AFANNeckWrapper; got 'classifier'"):
        build(classifier(dict(type='ClsHead')))
    with pytest.raises(ConversionError, match="has none, .* AFANNeckWrapper; got 'fc'"):
        convert(config(classifier(dict(type='ClsHead'), sites=())), ['head.fc'], 'paper')


@counts_operations
def test_grey_images():
    """The trial step of late sites has as many channels as the preprocessor has means."""
    stock = get_config('mmpretrain::lenet/lenet5_mnist.py')
    assert convert(stock).choices


def test_heads_without_a_classifier_are_left_out():
    tasks = dict(type='MultiTaskHead', task_heads=dict(a=LINEAR, b=LINEAR), in_channels=CHANNELS)
    with pytest.raises(ConversionError, match='MultiTaskHead has none of the sites'):
        convert(config(classifier(tasks, sites=())), ['head'])
    inner = r"'task_heads.a', .*'task_heads.b.fc'"
    with pytest.raises(ValueError, match=rf"site must be one of .*{inner}.* but got 'classifier'"):
        build(classifier(tasks))
