"""The paper's configs build at full size, take a training step and read their data; presets and
arms change what they say.
"""

import argparse
import copy
import functools
import json
import operator
import re
import shlex
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope

from support.paper_tables import AFAN, PAPER, RELEASED_STRENGTHS, STRENGTHS, experiment, load
from support.paths import CONFIGS
from support.tiny import build, detection_batch, gradients_at_updates, segmentation_batch


def without_weights(config):
    """A model config without anything to download."""
    if isinstance(config, dict):
        pretrained = (
            isinstance(config.get('init_cfg'), dict) and config['init_cfg']['type'] == 'Pretrained'
        )
        return {
            key: without_weights(value)
            for key, value in config.items()
            if key != 'pretrained' and not (key == 'init_cfg' and pretrained)
        }
    return [without_weights(each) for each in config] if isinstance(config, list) else config


@functools.lru_cache(maxsize=None)
def step(model, optim_wrapper, host):
    """One training step of a model; both given as text, so that configs that differ in their data
    alone share it.

    Returns:
        The parts of the model that a gradient reached, and how many adversarial passes each site
        had.
    """
    model, optim_wrapper = json.loads(model), json.loads(optim_wrapper)
    if host == 'mmseg':
        model['data_preprocessor']['size'] = (64, 64)
        batch = segmentation_batch(size=64)
    else:
        model['train_cfg']['rpn_proposal'].update(nms_pre=50, max_per_img=20)
        model['train_cfg']['rcnn']['sampler']['num'] = 2
        batch = detection_batch(size=64)
    model = revert_sync_batchnorm(build(Config(model)))
    wrapper = build_optim_wrapper(model, optim_wrapper)
    passes = count_passes(wrapper.health) if hasattr(wrapper, 'health') else {}
    # where a loss is not finite, they are zero
    (gradients,) = gradients_at_updates(model, wrapper, [batch])
    assert all(
        bool(gradient.isfinite().all()) for gradient in gradients.values() if gradient is not None
    )
    reached = {
        name.split('.')[0]
        for name, gradient in gradients.items()
        if gradient is not None and bool(gradient.any())
    }
    return reached, passes


def count_passes(health):
    """The adversarial passes of each site from now on."""
    passes, add_mix = Counter(), health.add_mix

    def counted(name, *args, **kwargs):
        passes[name] += 1
        return add_mix(name, *args, **kwargs)

    health.add_mix = counted
    return passes


def expected_passes(name):
    """How many adversarial passes a step has at each site, from the tables."""
    if name.startswith('advprop_'):
        return dict(image=1)
    if not name.startswith('afan_'):
        return {}
    head = 'roi_head' if 'rcnn' in name else 'decode_head'
    if name.endswith('_released'):
        site = 'backbone.layer3' if 'voc12' in name else 'backbone.layer2'
        return dict(zip((site, head), RELEASED_STRENGTHS[experiment(name)][2:]))
    passes = dict(zip(('neck', head), STRENGTHS[experiment(name)][2:]))
    alone = {'backbone': 'neck', 'decoder': head, 'roi': head}.get(name.split('_')[-1])
    return {alone: passes[alone]} if alone else passes


@pytest.mark.parametrize('name', PAPER)
def test_full_model_takes_a_step(name):
    cfg = load(name)
    model = json.dumps(without_weights(cfg.model.to_dict()))
    reached, passes = step(model, json.dumps(cfg.optim_wrapper.to_dict()), cfg.default_scope)
    assert reached >= {'backbone'} | (
        {'rpn_head', 'roi_head'} if 'rcnn' in name else {'decode_head'}
    )
    assert passes == expected_passes(name)


@pytest.mark.parametrize('name', [name for name in AFAN if name.endswith('_released')])
def test_preset_is_one_line(name, tmp_path):
    """The paper's config with the other preset's file in its bases has the settings of the released
    one.
    """
    data = re.search(r'(11250_|180k_|30k_|15k_)(voc07|voc12|coco|cityscapes)', name)[2]
    main = next(
        each
        for each in AFAN
        if f'_{data}' in each and 'r50' in each and ('caffe-c4' in each) == ('caffe-c4' in name)
    )
    path = CONFIGS / ('faster_rcnn' if 'rcnn' in name else 'deeplabv3plus') / f'{main}.py'
    text = path.read_text().replace('/presets/paper.py', '/presets/released.py')
    text = text.replace("'./", f"'{path.parent}/").replace("'../", f"'{CONFIGS}/")
    (tmp_path / 'changed.py').write_text(text)
    changed, released = Config.fromfile(str(tmp_path / 'changed.py')), load(name)
    head = 'roi_head' if 'rcnn' in name else 'decode_head'
    for key in ('neck', head):
        assert changed.model[key].afan == released.model[key].afan
    assert changed.optim_wrapper.clean_weight == released.optim_wrapper.clean_weight


ARMS = [name for name in AFAN if re.search(r'_(afa|gaussian|control|backbone|decoder|roi)$', name)]


def flat(config, path=()):
    """Every value of nested dicts and lists by its path."""
    if isinstance(config, (dict, list, tuple)):
        items = config.items() if isinstance(config, dict) else enumerate(config)
        return {
            key: leaf for each, value in items for key, leaf in flat(value, path + (each,)).items()
        }
    return {path: config}


@pytest.mark.parametrize('name', ARMS)
def test_arm_changes_one_setting(name):
    """An arm is the main config but for one setting of one site or both."""
    main, arm = (flat(load(each).to_dict()) for each in (name.rpartition('_')[0], name))
    changed = {
        path[-1]
        for path in main.keys() | arm.keys()
        if main.get(path, 'absent') != arm.get(path, 'absent')
    }
    setting = {'afa': 'moments', 'gaussian': 'perturbation', 'control': 'perturbation'}
    assert changed == {setting.get(name.split('_')[-1], 'num_strengths')}


def write_image(path, height=375, width=500, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = () if path.suffix == '.png' and 'leftImg8bit' not in path.name else (3,)
    cv2.imwrite(str(path), np.full((height, width, *channels), value, np.uint8))


def write_voc(root, lists):
    """A VOC folder in which each list of images names an image of its own."""
    for kind in ('Main', 'Segmentation'):
        for name in lists:
            path = root / 'ImageSets' / kind / f'{name}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{root.name}_{name}\n')
    for name in lists:
        write_image(root / 'JPEGImages' / f'{root.name}_{name}.jpg')
        write_image(root / 'SegmentationClass' / f'{root.name}_{name}.png', value=3)
        (root / 'Annotations').mkdir(exist_ok=True)
        (root / 'Annotations' / f'{root.name}_{name}.xml').write_text(
            '<annotation><size><width>500</width><height>375</height><depth>3</depth></size><object><name>cat</name>'
            '<difficult>0</difficult><bndbox><xmin>51</xmin><ymin>41</ymin><xmax>251</xmax><ymax>241</ymax></bndbox></object>'
            '</annotation>'
        )


def write_coco(root):
    for split in ('train2017', 'val2017'):
        write_image(root / split / f'{split}.jpg')
        content = dict(
            images=[dict(id=1, file_name=f'{split}.jpg', width=500, height=375)],
            categories=[dict(id=17, name='cat')],
            annotations=[
                dict(
                    id=1, image_id=1, category_id=17, bbox=[50, 40, 200, 200], area=40000, iscrowd=0
                )
            ],
        )
        path = root / 'annotations' / f'instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The folders that the configs expect below the current one, with one image in each split."""
    root = tmp_path_factory.mktemp('project')
    for year in ('VOC2007', 'VOC2012'):
        write_voc(root / 'data/VOCdevkit' / year, ('train', 'val', 'trainval', 'test'))
    write_coco(root / 'data/coco')
    for split in ('train', 'val'):
        write_image(
            root / f'data/cityscapes/leftImg8bit/{split}/town/{split}_leftImg8bit.png', 1024, 2048
        )
        write_image(
            root / f'data/cityscapes/gtFine/{split}/town/{split}_gtFine_labelTrainIds.png',
            1024,
            2048,
            5,
        )
    return root


IMAGES = {  # training and evaluation
    'deeplabv3plus_r50-d8_1xb4-30k_voc12-513x513': (['VOC2012_train'], 'VOC2012_val'),
    'deeplabv3plus_r50-d8_1xb4-10k_voc07-513x513': (['VOC2007_trainval'], 'VOC2007_test'),
    'deeplabv3plus_r50-d8_1xb4-30k_cityscapes-768x768': (['train_leftImg8bit'], 'val_leftImg8bit'),
    'faster-rcnn_r50_fpn_1xb8-11250_voc07': (['VOC2007_trainval'], 'VOC2007_test'),
    'faster-rcnn_r50_fpn_1xb8-180k_coco': (['train2017'], 'val2017'),
    'faster-rcnn_r101_fpn_1xb8-37500_voc0712': (
        ['VOC2007_trainval', 'VOC2012_trainval'],
        'VOC2007_test',
    ),
    'faster-rcnn_r101_fpn_1xb8-37500_voc0712-lda': (
        ['VOC2007_trainval', 'VOC2012_trainval'],
        'VOC2007_test',
    ),
}


@pytest.mark.parametrize('name', IMAGES)
def test_data_is_read(name, data, monkeypatch):
    """Each split, from where the config says, through its whole pipeline."""
    monkeypatch.chdir(data)
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    train, test = (
        DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)
    )
    samples = [[dataset[index] for index in range(len(dataset))] for dataset in (train, test)]
    read = [[Path(sample['data_samples'].img_path).stem for sample in split] for split in samples]
    assert read == [IMAGES[name][0], [IMAGES[name][1]]]
    if cfg.default_scope == 'mmseg':
        assert all(max(sample['inputs'].shape) <= cfg.crop_size[0] for sample in samples[0])


def augmented(ops):
    """A sub-policy of the LDA config with every operation certain, on an image of 500 x 400 with
    one box.
    """
    from mmdet.structures.bbox import HorizontalBoxes

    init_default_scope('mmdet')
    certain = [dict(op, prob=1.0) for op in ops]
    results = dict(
        img=np.full((400, 500, 3), 200, np.uint8),
        img_shape=(400, 500),
        gt_bboxes_labels=np.zeros(1, int),
        gt_bboxes=HorizontalBoxes(torch.tensor([[200.0, 150.0, 300.0, 250.0]])),
        gt_ignore_flags=np.zeros(1, bool),
    )
    return TRANSFORMS.build(dict(type='AutoAugment', policies=[certain]))(results)


def test_learned_policy():
    """The magnitudes of policy v0: 100 pixels of translation, 0.06 of shear, 30 degrees, a square
    of 160, colour x 1.18.
    """
    pipeline = (
        load('faster-rcnn_r101_fpn_1xb8-37500_voc0712-lda')
        .train_dataloader.dataset.datasets[0]
        .pipeline
    )
    policies = next(each for each in pipeline if each['type'] == 'AutoAugment')['policies']
    (translate, _), (cutout,), _, (shear,), (rotate, color) = policies
    box = augmented([translate])['gt_bboxes'].tensor[0]
    assert abs(box[0].item() - 200) == pytest.approx(100) and box[1] == 150
    # 100 pixels wide: sheared by 0.06, 6 pixels taller
    height = augmented([shear])['gt_bboxes'].tensor[0]
    assert height[3] - height[1] == pytest.approx(106, abs=0.5)
    side = augmented([rotate])['gt_bboxes'].tensor[0]  # 100 (cos 30 + sin 30)
    assert side[2] - side[0] == pytest.approx(136.6, abs=1)
    holes = [(augmented([cutout])['img'] == 128).all(-1).sum() for _ in range(40)]
    assert max(holes) == 160 * 160
    assert TRANSFORMS.build(dict(color))._get_mag() == pytest.approx(1.18, abs=0.03)


FOLDERS = ('deeplabv3plus', 'faster_rcnn')


def command_of(line):
    """The config that a command names, and its --cfg-options."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args(shlex.split(line)[2:])
    return CONFIGS.parent / args.config, args.cfg_options


def sites_of(cfg):
    """The sites of a config's model at the backbone, each known to be there."""
    model = build(Config(without_weights(cfg.model.to_dict())))
    model.neck.afan_check(model)
    afan = model.neck.afan
    return [site.name for site in (afan if isinstance(afan, list) else [afan])]


@pytest.mark.parametrize('folder', FOLDERS)
def test_commands_of_the_readme(folder):
    """Each names a config there is, and every config of the paper is there; options are settings
    that a model takes.
    """
    text = (CONFIGS / folder / 'README.md').read_text()
    commands = [command_of(line) for line in re.findall(r'python tools/train.py [^`\n]+', text)]
    assert all(path.is_file() for path, _ in commands)
    assert {path.stem for path, _ in commands} == {
        name for name in PAPER if ('rcnn' in name) == (folder == 'faster_rcnn')
    }
    for path, options in filter(operator.itemgetter(1), commands):
        cfg = copy.deepcopy(load(path.stem))
        before = flat(cfg.to_dict())
        cfg.merge_from_dict(options)
        after = flat(cfg.to_dict())
        changed = {
            '.'.join(map(str, key))
            for key in after
            if key not in before or after[key] != before[key]
        }
        assert changed == {key for key in options if options[key] is not None}
        if 'model.neck.afan.site' in options:
            assert sites_of(cfg) == [options['model.neck.afan.site']]


@pytest.mark.parametrize('folder', FOLDERS)
def test_several_sites_of_the_readme(folder, tmp_path):
    (block,) = re.findall(
        r'```python\n(.*?)```', (CONFIGS / folder / 'README.md').read_text(), re.S
    )
    (tmp_path / 'blocks.py').write_text(block.replace("'./", f"'{CONFIGS / folder}/"))
    assert sites_of(Config.fromfile(str(tmp_path / 'blocks.py'))) == [
        'backbone.layer2',
        'backbone.layer3',
    ]


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile(folder):
    """It lists the configs there are, with the batch size and the iterations of their names."""
    models = {
        model['Name']: model
        for model in yaml.safe_load((CONFIGS / folder / 'metafile.yml').read_text())['Models']
    }
    assert set(models) == {
        path.stem for path in (CONFIGS / folder).glob('*.py') if 'scratch' not in path.stem
    }
    for name, model in models.items():
        cfg = load(name)
        assert model['Config'] == f'configs/{folder}/{name}.py' and 'Results' not in model
        assert model['Metadata']['Batch Size'] == cfg.train_dataloader.batch_size
        assert model['Metadata']['Iterations'] == cfg.train_cfg.max_iters
