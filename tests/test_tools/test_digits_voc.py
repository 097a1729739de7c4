"""tools/dataset_converters/digits_voc.py: reproducible, without leaks, and read by the stock
dataset classes.
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.digits import digits_voc
from support.tools import load_tool

tool = load_tool('dataset_converters/digits_voc')

TRAIN, VAL, SIZE = 6, 3, 96

pytest.importorskip('skimage')
pytest.importorskip('sklearn')


def contents(root):
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(Path(root).rglob('*'))
        if p.is_file()
    }


@pytest.fixture(scope='module')
def devkit(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits') / 'devkit'
    digits_voc.make_digits_voc(root, train=TRAIN, val=VAL, size=SIZE)
    return root


def test_same_seed_same_bytes(devkit, tmp_path):
    digits_voc.make_digits_voc(tmp_path / 'again', train=TRAIN, val=VAL, size=SIZE)
    assert contents(tmp_path / 'again') == contents(devkit)


def test_image_depends_on_seed_but_not_on_count(devkit, tmp_path):
    digits_voc.make_digits_voc(tmp_path / 'fewer', train=1, val=1, size=SIZE)
    digits_voc.make_digits_voc(tmp_path / 'other', seed=1, train=1, val=1, size=SIZE)
    first = 'JPEGImages/train_00000.jpg'
    assert contents(tmp_path / 'fewer')[first] == contents(devkit)[first]
    assert contents(tmp_path / 'other')[first] != contents(devkit)[first]


def test_splits_share_no_digit():
    split = digits_voc.split_digits(1797, seed=0)
    assert sorted(np.concatenate(list(split.values()))) == list(range(1797))
    train, val = (digits_voc.load_sources(0)[s][0].reshape(-1, 64) for s in digits_voc.SPLITS)
    # nor do two indices hold the same drawing
    assert not set(map(bytes, train)) & set(map(bytes, val))


@pytest.mark.parametrize('shape', [(400, 600, 3), (512, 512), (300, 451), (451, 300)])
def test_splits_share_no_texture_pixel(shape):
    count = np.zeros(shape, dtype=int)
    for region in digits_voc.split_texture(shape).values():
        count[region] += 1
    assert (count == 1).all()


def test_sources_are_views_of_their_own_region():
    sources = digits_voc.load_sources(0)
    for train, val in zip(sources['train'][2], sources['val'][2]):
        assert train.base is val.base  # two cuts of one picture ...
        assert not np.shares_memory(train, val)  # ... that do not touch


@pytest.mark.parametrize('index', range(20))
def test_boxes_agree_with_mask(index):
    source = digits_voc.load_sources(0)['train']
    image, mask, objects = digits_voc.draw_scene(np.random.default_rng(index), *source, SIZE)
    assert image.shape == (SIZE, SIZE, 3) and image.dtype == mask.dtype == np.uint8
    assert set(np.unique(mask)) - {0} >= {label + 1 for label, _, _ in objects}
    unboxed = mask > 0
    for label, (x1, y1, x2, y2), _ in objects:
        assert 0 <= x1 < x2 < SIZE and 0 <= y1 < y2 < SIZE
        inside = mask[y1 : y2 + 1, x1 : x2 + 1] == label + 1
        # tight on all four sides
        assert inside[[0, -1]].any(axis=1).all() and inside[:, [0, -1]].any(axis=0).all()
        unboxed[y1 : y2 + 1, x1 : x2 + 1] &= ~inside
    assert unboxed.sum() < 64  # scraps too thin for a box


def test_occlusion_marks_difficult():
    source = digits_voc.load_sources(0)['train']
    flags = [
        o[2]
        for i in range(60)
        for o in digits_voc.draw_scene(np.random.default_rng(i), *source, SIZE)[2]
    ]
    assert 0 < np.mean(flags) < 0.2


@pytest.mark.parametrize('name', ['XMLDataset', 'VOCDataset'])
@pytest.mark.parametrize(
    'split, length', [('train', TRAIN), ('val', VAL), ('trainval', TRAIN + VAL)]
)
def test_mmdet_reads_it(devkit, name, split, length):
    datasets = pytest.importorskip('mmdet.datasets')
    dataset = getattr(datasets, name)(
        data_root=str(devkit),
        ann_file=f'ImageSets/Main/{split}.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=digits_voc.CLASSES),
        test_mode=True,
    )
    assert len(dataset) == length
    info = dataset.get_data_info(0)
    assert Path(info['img_path']).is_file() and (info['height'], info['width']) == (SIZE, SIZE)
    names = [node.text for node in ET.parse(info['xml_path']).iter('name')]
    assert [digits_voc.CLASSES[i['bbox_label']] for i in info['instances']] == names


@pytest.mark.parametrize('name', ['PascalVOCDataset', 'BaseSegDataset'])
def test_mmseg_reads_it(devkit, name):
    datasets = pytest.importorskip('mmseg.datasets')
    dataset = getattr(datasets, name)(
        data_root=str(devkit),
        ann_file='ImageSets/Segmentation/train.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
    )
    assert len(dataset) == TRAIN
    sample = dataset[0]
    assert sample['img'].shape == (SIZE, SIZE, 3)
    stored = np.asarray(Image.open(devkit / 'SegmentationClass' / 'train_00000.png'))
    assert (sample['gt_seg_map'] == stored).all() and stored.max() <= len(digits_voc.CLASSES)


@pytest.mark.parametrize(
    'name, value',
    [('train', 0), ('val', -1), ('size', 32), ('seed', -1), ('train', 2.5), ('size', '96')],
)
def test_bad_argument_is_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f'{name} must be an integer from .* but got {value!r}'):
        digits_voc.make_digits_voc(tmp_path / 'out', **{name: value})
    assert not list(tmp_path.iterdir())


def test_occupied_folder_is_refused(devkit, tmp_path):
    before = contents(devkit)
    with pytest.raises(FileExistsError, match='out_dir must be new or empty unless overwrite'):
        digits_voc.make_digits_voc(devkit, train=1, val=1, size=SIZE)
    assert contents(devkit) == before
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(FileExistsError, match='thesis.tex'):
        digits_voc.make_digits_voc(tmp_path, train=1, val=1, size=SIZE, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


def test_overwrite_replaces_everything(tmp_path):
    digits_voc.make_digits_voc(tmp_path / 'out', train=2, val=1, size=SIZE)
    digits_voc.make_digits_voc(tmp_path / 'out', train=1, val=1, size=SIZE, overwrite=True)
    assert len(list((tmp_path / 'out' / 'JPEGImages').iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_failure_leaves_old_devkit(tmp_path, monkeypatch):
    digits_voc.make_digits_voc(tmp_path / 'out', train=1, val=1, size=SIZE)
    before = contents(tmp_path)
    monkeypatch.setattr(digits_voc, 'write_annotation', lambda *_: 1 / 0)
    for name in ('out', 'new'):
        with pytest.raises(ZeroDivisionError):
            digits_voc.make_digits_voc(tmp_path / name, train=1, val=1, size=SIZE, overwrite=True)
    assert contents(tmp_path) == before and [p.name for p in tmp_path.iterdir()] == ['out']


def test_command_line(tmp_path, monkeypatch, capsys):
    command = [
        'digits_voc.py',
        str(tmp_path / 'out'),
        '--train',
        '1',
        '--val',
        '1',
        '--size',
    ]
    monkeypatch.setattr(sys, 'argv', command + ['7'])
    with pytest.raises(SystemExit, match='2'):
        tool.main()
    assert 'size must be an integer from 64 to 512, but got 7' in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', command + [str(SIZE)])
    tool.main()
    assert (tmp_path / 'out' / 'ImageSets' / 'Main' / 'val.txt').read_text() == 'val_00000\n'
