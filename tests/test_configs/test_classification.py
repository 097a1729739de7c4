"""The paper's classification configs against Sec. 4 and its tables."""

import functools
import math
import operator
import re

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, DefaultScope, init_default_scope

from support.paths import CONFIGS
from support.tiny import gradients_at_updates, optim_wrapper

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample  # noqa: E402  after its importorskip

FOLDERS = ('resnet', 'efficientnet')
CIFAR = [f'resnet{depth}s_1xb128-200e_cifar{c}' for depth in (20, 56) for c in (10, 100)]
CIFAR += ['resnet18_1xb128-200e_cifar10']
IMAGENET = [f'resnet{depth}_8xb64-90e_in1k' for depth in (18, 50, 101, 152)]
IMAGENET += [f'efficientnet-b0_{gpus}-90e_in1k' for gpus in ('8xb64', '2xb128')]
ARMS = [f'resnet56s_1xb128-200e_cifar10_{arm}' for arm in ('afa', 'gaussian', 'control')]
RELEASED = 'resnet56s_1xb128-200e_cifar10_released'
ADVPROP = [
    f'advprop_{name}'
    for name in (CIFAR[0], 'resnet18_1xb128-200e_cifar10', 'efficientnet-b0_2xb128-90e_in1k')
]
SMALL = [f'{method}resnet20s_1xb64-6e_cifar10-10000' for method in ('', 'afan_', 'advprop_')]
STOCK = CIFAR + IMAGENET
AFAN = [f'afan_{name}' for name in STOCK + ARMS + [RELEASED]]
# Parameters: He et al. 2016, Table 6 (0.27 and 0.85 million, of 10 classes); torchvision's counts;
# Tan and Le 2019, Table 2 (5.3 million).
PARAMETERS = {
    'resnet20s_1xb128-200e_cifar10': 269_722,
    'resnet56s_1xb128-200e_cifar10': 853_018,
    'resnet20s_1xb128-200e_cifar100': 269_722 + 90 * 65,
    'resnet18_8xb64-90e_in1k': 11_689_512,
    'resnet50_8xb64-90e_in1k': 25_557_032,
    'efficientnet-b0_8xb64-90e_in1k': 5_288_548,
}


@functools.lru_cache(maxsize=None)
def load(name):
    folder = 'efficientnet' if 'efficientnet' in name else 'resnet'
    return Config.fromfile(str(CONFIGS / folder / f'{name}.py'))


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(cfg.model, data_preprocessor=dict(cfg.data_preprocessor)))


def test_every_row_of_the_tables_has_its_configs():
    """Tables 2, 3, 4 and 9."""
    found = [path.stem for folder in FOLDERS for path in (CONFIGS / folder).glob('*.py')]
    assert sorted(found) == sorted(STOCK + AFAN + ADVPROP + SMALL)


def test_small_configs_are_those_of_table_2_but_for_data_and_length():
    for name in SMALL[:2]:
        small, cfg = load(name), load(name.replace('64-6e_cifar10-10000', '128-200e_cifar10'))
        assert small.model == cfg.model and small.optim_wrapper == cfg.optim_wrapper
        assert small.data_preprocessor == dict(cfg.data_preprocessor, to_rgb=True)
        iterations = 6 * math.ceil(10_000 / small.train_dataloader.batch_size)
        assert small.train_cfg.max_epochs == 6 and small.param_scheduler[1].end == iterations


@pytest.mark.parametrize('name', PARAMETERS)
def test_parameters(name):
    assert sum(p.numel() for p in build(load(name)).parameters()) == PARAMETERS[name]


def test_shapes_of_the_small_resnet():
    """He et al. 2016, Sec. 4.2: 6 n + 2 layers; maps of 32, 16 and 8 pixels, 16, 32 and 64 channels;
    shortcuts without parameters, zeros beside what they carry.
    """
    backbone = build(load('resnet56s_1xb128-200e_cifar10')).backbone
    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) + 1 == 56 and {m.kernel_size for m in convolutions} == {(3, 3)}
    shapes, maps = [], torch.randn(2, 3, 32, 32)
    maps = backbone.relu(backbone.norm1(backbone.conv1(maps)))
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3):
        maps = stage(maps)
        shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    shortcut, source = backbone.layer2[0].downsample, torch.randn(2, 16, 32, 32)
    carried = shortcut(source)
    assert torch.equal(carried[:, 8:24], source[:, :, ::2, ::2])
    assert not carried[:, :8].any() and not carried[:, 24:].any()
    assert backbone.layer1[0].downsample is None


def rates(cfg, per_epoch):
    """The learning rate of every iteration, as the runner's hook steps the schedulers."""
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], cfg.optim_wrapper.optimizer.lr
    )
    built = [
        PARAM_SCHEDULERS.build(dict(each, optimizer=optimizer)) for each in cfg.param_scheduler
    ]
    found = []
    for _ in range(cfg.train_cfg.max_epochs):
        for _ in range(per_epoch):
            found.append(optimizer.param_groups[0]['lr'])
            for scheduler in built:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in built:
            if scheduler.by_epoch:
                scheduler.step()
    return np.array(found)


@pytest.mark.parametrize('name', STOCK + AFAN + ADVPROP)
def test_schedule(name):
    cfg, cifar, per_epoch = load(name), 'cifar' in name, 40
    gpus, per_gpu, epochs = map(int, re.search(r'_(\d+)xb(\d+)-(\d+)e_', name).groups())
    assert cfg.train_dataloader.batch_size == per_gpu and cfg.train_cfg.by_epoch
    assert gpus * per_gpu == (128 if cifar else 256 if '2xb128' in name else 512)
    assert cfg.train_cfg.max_epochs == epochs == (200 if cifar else 90)
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4 if cifar else 1e-4)
    assert cfg.optim_wrapper.optimizer == optimizer
    warm_up = 351 if name.endswith('released') else 200 if cifar else 0
    epoch = np.arange(epochs).repeat(per_epoch)
    expected = 0.1 * 0.1 ** sum(
        (epoch >= at).astype(int) for at in ((50, 150) if cifar else (30, 60))
    )
    for iteration in range(warm_up):  # the first has its share, the last the whole
        share = (iteration * (warm_up - 1) / max(warm_up - 1, 1)) / (warm_up - 1)
        expected[iteration] *= 1 / warm_up + (1 - 1 / warm_up) * share
    np.testing.assert_allclose(rates(cfg, per_epoch), expected, rtol=1e-6)


@pytest.mark.parametrize('name', STOCK + AFAN + ADVPROP)
def test_data(name):
    """Nine tenths to train on, the last tenth for the choice of the checkpoint, the test images."""
    cfg = load(name)
    kind = 'CIFAR100' if 'cifar100' in name else 'CIFAR10' if 'cifar10' in name else 'ImageNet'
    train, val, test = (
        getattr(cfg, f'{which}_dataloader').dataset for which in ('train', 'val', 'test')
    )
    for part in (train, val):
        assert part.type == 'KFoldDataset' and part.num_splits == 10
        assert part.dataset.type == kind and part.dataset.split == 'train'
    assert 'test_mode' not in train and val.test_mode
    assert (train.fold, train.seed) == (val.fold, val.seed)
    # random as in the paper, or the last tenth as in the released code
    assert train.fold == (9 if name.endswith('released') else 0)
    assert train.seed == (None if name.endswith('released') else 0)
    assert test.type == kind and test.split == ('val' if kind == 'ImageNet' else 'test')
    augmented = {'RandomCrop', 'RandomResizedCrop', 'RandomFlip'}
    assert len(augmented & {step['type'] for step in train.dataset.pipeline}) == 2
    assert [step['type'] for step in val.dataset.pipeline] == [s['type'] for s in test.pipeline]
    assert not augmented & {step['type'] for step in test.pipeline}
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1'
    assert cfg.train_cfg.val_interval == 1
    classes = {'CIFAR10': 10, 'CIFAR100': 100, 'ImageNet': 1000}[kind]
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == classes


def test_the_two_parts_share_no_image():
    @DATASETS.register_module(force=True)
    class HundredImages(DATASETS.get('mmpretrain.BaseDataset')):
        METAINFO = dict(classes=('a',))

        def load_data_list(self):
            return [dict(number=number, gt_label=0) for number in range(100)]

    init_default_scope('mmpretrain')
    cfg, numbers = load(CIFAR[0]), []
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        stock = dict(type='HundredImages', ann_file='')
        dataset = DATASETS.build(dict(loader.dataset, dataset=stock))
        numbers.append({dataset.get_data_info(i)['number'] for i in range(len(dataset))})
    assert [len(part) for part in numbers] == [90, 10] and not numbers[0] & numbers[1]
    assert numbers[1] != set(range(90, 100))


@pytest.mark.parametrize('name', AFAN)
def test_strengths(name):
    cfg = load(name)
    afan, clean = cfg.model.neck.afan, cfg.optim_wrapper.clean_weight
    assert cfg.optim_wrapper.type == 'AFANOptimWrapper'
    assert 'afan_mm' in cfg.custom_imports.imports and cfg.custom_hooks[0].type == 'AFANHook'
    if name.endswith('released'):
        assert (clean, afan.adv_weight, afan.num_strengths, afan.num_steps) == (0.5, 0.5, 1, 5)
        assert afan.epsilon == pytest.approx(2.5 / 255)
        assert afan.step_size == pytest.approx(0.5 / 255)
        assert afan.moments is None and afan.detach and afan.site == 'backbone.layer1'
        return
    assert (clean, afan.adv_weight, afan.num_strengths) == (1, 1, 3)
    assert afan.num_steps == (5 if 'cifar' in name else 1)
    assert afan.epsilon == pytest.approx(0.5 / 255) and 'step_size' not in afan
    assert afan.strengths == 'uniform' and afan.detach is False
    assert afan.moments == (None if name.endswith('_afa') else 'batch')
    arms = dict(gaussian='gaussian', control='none')
    assert afan.get('perturbation', 'gradient') == arms.get(name.split('_')[-1], 'gradient')
    assert afan.get('site') == ('backbone.layers.5' if 'efficientnet' in name else None)


@pytest.mark.parametrize('name', ADVPROP)
def test_advprop(name):
    """Footnote 3: as many steps as A-FAN has, of one grey level each."""
    cfg = load(name)
    afan, cifar = cfg.model.afan, 'cifar' in name
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.clean_weight) == ('AFANOptimWrapper', 1)
    assert 'afan_mm' in cfg.custom_imports.imports and cfg.custom_hooks[0].type == 'AFANHook'
    assert afan.num_steps == (5 if cifar else 1) and afan.random_start
    assert afan.epsilon == pytest.approx((4 if cifar else 1) / 255)
    assert afan.step_size == pytest.approx(1 / 255) and afan.epsilon_unit == 'pixel'
    assert (afan.num_strengths, afan.strengths, afan.adv_weight) == (1, 'linspace', 1)
    assert afan.moments is None and afan.bn_stats == 'auxiliary' and 'afan' not in cfg.model.neck


@pytest.mark.parametrize(
    'name',
    [f'afan_{name}' for name in (CIFAR[1], CIFAR[2], RELEASED, 'efficientnet-b0_8xb64-90e_in1k')]
    + ADVPROP
    + SMALL,
)
def test_full_model_takes_a_step(name):
    model = build(load(name)).train()
    samples = [DataSample().set_gt_label(index) for index in range(2)]
    side = 32 if 'cifar' in name else 64
    batch = dict(inputs=torch.rand(2, 3, side, side) * 255, data_samples=samples)
    (gradients,) = gradients_at_updates(model, optim_wrapper(model), [batch])
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients.values())


@pytest.mark.parametrize('folder', FOLDERS + ('efficientnet_lite0',))
def test_metafile_and_readme(folder):
    names = {path.stem for path in (CONFIGS / folder).glob('*.py')}
    text = (CONFIGS / folder / 'metafile.yml').read_text()
    models = {model['Name']: model for model in yaml.safe_load(text)['Models']}
    assert set(models) == names
    for name, model in models.items():
        cfg = (
            load(name)
            if folder in FOLDERS
            else Config.fromfile(str(CONFIGS / folder / f'{name}.py'))
        )
        given = model['Metadata']
        assert model['Config'] == f'configs/{folder}/{name}.py'
        assert given['Batch Size'] == cfg.train_dataloader.batch_size
        key, length = ('Epochs', 'max_epochs') if 'Epochs' in given else ('Iterations', 'max_iters')
        assert given[key] == cfg.train_cfg[length]
    commands = re.findall(
        r'configs/(\w+)/([\w-]+)\.py', (CONFIGS / folder / 'README.md').read_text()
    )
    assert {name for _, name in commands} == names and {where for where, _ in commands} == {folder}


def test_options_of_the_readme():
    """Each names a setting, and a site that the network has."""
    text = (CONFIGS / 'resnet' / 'README.md').read_text()
    options = re.findall(r'cifar10.py --cfg-options model\.neck\.afan\.(\w+)=(\S+)', text)
    assert len(options) == 4
    model = build(load('afan_resnet18_1xb128-200e_cifar10'))
    for key, value in options:
        if key == 'site':
            assert operator.attrgetter(value)(model) is model.backbone.layer1
        else:
            assert hasattr(model.neck.afan, key) and float(value) > 0
