"""Classifiers against perturbed images: PGD and, where its package is, AutoAttack."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from afan_mm.robustness import AttackError, AttackSettings
from afan_mm.robustness.pixel_attack import PixelAttack
from support.tiny import seed_everything

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample  # noqa: E402  after its importorskip

CLASSES, IMAGES, MEAN, STD = 5, 6, 120.0, 60.0


@MODELS.register_module(force=True)
class RobustBackbone(nn.Module):
    """Maps that grow with the pixels, so that the classifier's input is linear in them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)

    def forward(self, inputs):
        return (self.conv(inputs),)


@DATASETS.register_module(force=True)
class RobustImages(BaseDataset):
    def load_data_list(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (IMAGES, 3, 9, 9), generator=generator, dtype=torch.uint8)
        return [dict(image=image, label=i % CLASSES) for i, image in enumerate(images)]

    def prepare_data(self, index):
        info = self.get_data_info(index)
        sample = DataSample(metainfo=dict(sample_idx=index)).set_gt_label(info['label'])
        return dict(inputs=info['image'], data_samples=sample)


MODEL = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='RobustBackbone'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=4),
    data_preprocessor=dict(num_classes=CLASSES, mean=[MEAN] * 3, std=[STD] * 3, to_rgb=True),
)


@pytest.fixture
def model():
    seed_everything(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(MODEL)
    for parameter in built.parameters():
        nn.init.normal_(parameter)
    return built


def loss_by_hand(model, pixels, label):
    """To RGB, normalised, through the network."""
    maps = model.backbone((pixels.flip(0)[None] - MEAN) / STD)[0]
    return F.cross_entropy(model.head.fc(maps.mean((2, 3))), torch.tensor([label]))


def test_pgd_is_that_of_the_formula(model):
    sample = RobustImages()[3]
    settings = AttackSettings(epsilon=3 / 255, step_size=2 / 255, num_steps=3)
    (found,), finite = PixelAttack(model, settings)(sample)
    clean = sample['inputs'].float()
    moved = clean.clone()
    for _ in range(3):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(loss_by_hand(model, moved, 3), moved)
        moved = clean + (moved.detach() + 2 * gradient.sign() - clean).clamp(-3, 3)
        moved = moved.clamp(0, 255)
    torch.testing.assert_close(found, moved)
    assert finite == [True] and loss_by_hand(model, found, 3) > loss_by_hand(model, clean, 3)


def runner(tmp_path, **test_cfg):
    return Runner(
        model=MODEL,
        work_dir=str(tmp_path),
        experiment_name=tmp_path.name,
        default_scope='mmpretrain',
        test_dataloader=dict(
            dataset=dict(type='RobustImages'),
            batch_size=4,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        test_evaluator=dict(type='Accuracy', topk=(1,)),
        test_cfg=dict(type='RobustTestLoop', **test_cfg),
        log_level='WARNING',
        randomness=dict(seed=0),
    )


def test_a_runner(tmp_path):
    """The field's usual protocol, and figures in percent of clean and of perturbed images."""
    metrics = runner(tmp_path).test()
    report = json.loads((tmp_path / 'robust.json').read_text())
    protocol = report['protocol']
    assert (protocol['attack'], protocol['num_steps']) == ('pgd', 10)
    assert protocol['step_size'] == 2 / 255 and protocol['epsilon'] == 8 / 255
    assert metrics['robust/accuracy/top1'] <= metrics['clean/accuracy/top1']
    assert report['num_images'] == IMAGES and report['num_nonfinite'] == 0


def test_refusals(tmp_path):
    with pytest.raises(AttackError, match=r"attack must be one of \('pgd', 'autoattack'\)"):
        AttackSettings.for_library('mmpretrain', attack='segpgd')
    with pytest.raises(AttackError, match=r"attack must be one of \('pgd',\) for a detector"):
        AttackSettings.for_library('mmdet', attack='autoattack')
    with pytest.raises(AttackError, match='show_dir draws boxes and maps'):
        runner(tmp_path, show_dir=str(tmp_path)).test()


def test_an_image_without_a_label(model):
    unlabelled = dict(RobustImages()[0], data_samples=DataSample())
    with pytest.raises(AttackError, match='needs ground truth, but a DataSample'):
        PixelAttack(model, AttackSettings.for_library('mmpretrain'))(unlabelled)


def test_auto_attack(model):
    """It turns a prediction that was right, and stays in the ball."""
    pytest.importorskip('pyautoattack')
    epsilon, sample = 60 / 255, RobustImages()[3]
    clean = sample['inputs'].float()
    settings = AttackSettings.for_library('mmpretrain', attack='autoattack', epsilon=epsilon)
    with torch.no_grad():
        model.head.fc.bias.zero_()
        label = int(
            model.head.fc(
                model.backbone((clean.flip(0)[None] - MEAN) / STD)[0].mean((2, 3))
            ).argmax()
        )
    sample['data_samples'].set_gt_label(label)  # right at first
    (found,), _ = PixelAttack(model, settings)(sample)
    assert (found - clean).abs().max() <= 60 + 1e-3 and found.min() >= 0 and found.max() <= 255
    with torch.no_grad():
        scores = model.head.fc(model.backbone((found.flip(0)[None] - MEAN) / STD)[0].mean((2, 3)))
    assert int(scores.argmax()) != label


def test_auto_attack_on_a_tie(model):
    """Where all classes have one score no attack finds a way, and Square has no image left to
    query.
    """
    pytest.importorskip('pyautoattack')
    settings = AttackSettings.for_library('mmpretrain', attack='autoattack')
    with torch.no_grad():
        model.head.fc.weight.zero_()
        model.head.fc.bias.zero_()
    sample = RobustImages()[0]  # of the class that a tie is decided for
    (found,), _ = PixelAttack(model, settings)(sample)
    assert (found - sample['inputs']).abs().max() <= 8 + 1e-3


def test_auto_attack_needs_scores(model, monkeypatch):
    """Conformer has two classifiers, a retriever gives no classes."""
    pytest.importorskip('pyautoattack')
    settings = AttackSettings.for_library('mmpretrain', attack='autoattack')
    for returned, said in (((1, 2), 'a tuple'), (torch.ones(1, 2, 3), r'a tensor of .*3\)')):
        monkeypatch.setattr(model, 'forward', lambda *args, r=returned, **kwargs: r)
        with pytest.raises(AttackError, match=rf'mode=.tensor.*returns {said}: run pgd'):
            PixelAttack(model, settings)(RobustImages()[0])


def test_several_tasks():
    """PGD raises the sum of their losses; one that an image has no label for has none."""
    from mmpretrain.structures import MultiTaskDataSample

    seed_everything(0)
    head = dict(MODEL['head'], type='LinearClsHead')
    tasks = dict(type='MultiTaskHead', task_heads=dict(a=head, b=head))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(MODEL, head=tasks))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    attack = PixelAttack(model, AttackSettings.for_library('mmpretrain', num_steps=2))
    image, sample = RobustImages()[0]['inputs'], MultiTaskDataSample()
    with pytest.raises(AttackError, match='needs ground truth, but a MultiTaskDataSample'):
        attack(dict(inputs=image, data_samples=sample))
    sample.set_field(DataSample().set_gt_label(1), 'a')
    data = dict(inputs=image.float(), data_samples=sample)
    (found,), finite = attack(data)
    clean, raised = (float(attack.losses(dict(data, inputs=x))[0]) for x in (image, found))
    assert finite == [True] and raised > clean


def test_auto_attack_says_what_it_needs(model, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyautoattack', None)
    settings = AttackSettings.for_library('mmpretrain', attack='autoattack')
    with pytest.raises(AttackError, match='pip install pyautoattack'):
        PixelAttack(model, settings)(RobustImages()[0])
