"""Halves of validation sets, and what the keys of runs depend on."""

import copy
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope

from afan_mm.experiments import DataError, Plan, Store, read_experiment
from afan_mm.experiments.data import Evaluation, halves
from afan_mm.experiments.datasets import Datasets
from afan_mm.experiments.plan import all_runs
from afan_mm.experiments.references import control
from afan_mm.experiments.sources import environment, uses_afan
from support.projects import NUM_VAL, afan_overrides, write_experiment, write_project

HALF = dict(split='half', seed=0)


def build(cfg, dataset):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return DATASETS.build(copy.deepcopy(dataset))


def names(cfg, loader):
    dataset = build(cfg, loader['dataset'])
    return [os.path.basename(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]


@pytest.mark.parametrize('size', [2, 7, 100])
def test_halves_share_no_image_and_leave_none_out(size):
    found = halves(size, seed=3)
    assert sorted(found['selection'] + found['report']) == list(range(size))
    assert len(found['report']) - len(found['selection']) == size % 2
    assert found == halves(size, seed=3)
    assert size < 100 or found != halves(size, seed=4)


def test_one_image_cannot_be_split():
    with pytest.raises(DataError, match='at least 2 images, but has 1'):
        halves(1, seed=0)


@pytest.mark.parametrize('host', ['mmseg', 'mmdet', 'mmpretrain'])
def test_each_host_s_datasets_are_split(host, tmp_path):
    cfg = Config.fromfile(str(write_project(host, tmp_path)))
    evaluation = Evaluation(Datasets(), HALF, tmp_path)
    found = {half: names(cfg, evaluation.images(cfg, half)[0]) for half in ('selection', 'report')}
    whole = names(cfg, evaluation.images(cfg, 'all')[0])
    assert len(whole) == NUM_VAL and len(found['report']) == NUM_VAL // 2
    assert sorted(found['selection'] + found['report']) == sorted(whole)


def test_a_test_set_of_its_own_is_the_report_s(tmp_path):
    cfg = Config.fromfile(str(write_project('mmpretrain', tmp_path)))
    cfg.test_dataloader = copy.deepcopy(cfg.test_dataloader)
    cfg.test_dataloader.dataset.data_prefix = 'train'
    evaluation = Evaluation(Datasets(), HALF, tmp_path)
    assert len(names(cfg, evaluation.images(cfg, 'selection')[0])) == NUM_VAL
    assert set(names(cfg, evaluation.images(cfg, 'report')[0])) == {
        f'train{i}.png' for i in range(4)
    }


@pytest.mark.parametrize(
    'change',
    (
        dict(test_mode=True),
        dict(lazy_init=False),
        dict(data_prefix=dict(img_path='img/val/', seg_map_path='ann/val/')),
        dict(data_root='copy'),
        dict(indices=[0, 1]),
        dict(ann_file='two.txt'),
    ),
    ids=str,
)
def test_the_images_tell_whether_a_test_set_is_another(change, tmp_path, monkeypatch):
    """Not how it is written: the same files, a copy of them, or some of them."""
    cfg = Config.fromfile(str(write_project('mmseg', tmp_path / 'data')))
    (tmp_path / 'data' / 'two.txt').write_text('val0\nval1\n')
    shutil.copytree(tmp_path / 'data', tmp_path / 'copy')
    monkeypatch.chdir(tmp_path)
    cfg.test_dataloader = copy.deepcopy(cfg.test_dataloader)
    cfg.test_dataloader.dataset.update(change)
    evaluation = Evaluation(Datasets(), HALF, tmp_path)
    found = {half: names(cfg, evaluation.images(cfg, half)[0]) for half in ('selection', 'report')}
    assert len(found['selection']) == len(found['report']) == NUM_VAL // 2
    assert not set(found['selection']) & set(found['report'])
    assert evaluation.where(cfg, 'report') == 'the report half of the validation set'


def test_a_test_set_that_is_not_there_is_another(tmp_path):
    cfg = Config.fromfile(str(write_project('mmseg', tmp_path)))
    cfg.test_dataloader = copy.deepcopy(cfg.test_dataloader)
    cfg.test_dataloader.dataset.data_prefix = dict(img_path='img/test', seg_map_path='ann/test')
    cfg.test_dataloader.dataset.ann_file = 'test.txt'
    evaluation = Evaluation(Datasets(), HALF, tmp_path)
    assert len(names(cfg, evaluation.images(cfg, 'selection')[0])) == NUM_VAL
    assert evaluation.where(cfg, 'report') == 'the test set'


def test_datasets_of_which_the_size_alone_is_known_are_told_apart_by_their_configs(tmp_path):
    @DATASETS.register_module(force=True)
    class Numbers(list):
        def __init__(self, values):
            super().__init__(values)

    one, other = (dict(type='mmengine.Numbers', values=values) for values in ([1, 2], [3, 4]))
    cfg = Config(dict(default_scope='mmengine'))
    for kind, dataset in (('val', one), ('test', other)):
        cfg[f'{kind}_dataloader'], cfg[f'{kind}_evaluator'] = dict(dataset=dataset), dict()
    evaluation = Evaluation(Datasets(), HALF, tmp_path)
    assert evaluation.where(cfg, 'report') == 'the test set'
    cfg.test_dataloader = cfg.val_dataloader
    assert evaluation.where(cfg, 'report') == 'the report half of the validation set'


def test_not_split_when_told_so(tmp_path):
    cfg = Config.fromfile(str(write_project('mmpretrain', tmp_path)))
    evaluation = Evaluation(Datasets(), dict(split='none'), tmp_path)
    assert len(names(cfg, evaluation.images(cfg, 'report')[0])) == NUM_VAL
    with pytest.raises(DataError, match="split must be one of .*, but got 'third'"):
        Evaluation(Datasets(), dict(split='third'), tmp_path)


@pytest.mark.parametrize(
    ('indices', 'places'), [([1, 3, 4], [1, 3, 4]), (4, [0, 1, 2, 3]), (-2, [4, 5])]
)
def test_a_choice_of_images_is_what_is_split(indices, places, tmp_path):
    cfg = Config.fromfile(str(write_project('mmpretrain', tmp_path)))
    evaluation = Evaluation(Datasets(), HALF, tmp_path)
    whole = names(cfg, evaluation.images(cfg, 'all')[0])
    cfg.val_dataloader.dataset.indices = cfg.test_dataloader.dataset.indices = indices
    found = {half: evaluation.images(cfg, half)[0] for half in ('selection', 'report', 'all')}
    chosen = [whole[place] for place in places]
    assert sorted(names(cfg, found['selection']) + names(cfg, found['report'])) == sorted(chosen)
    assert len(names(cfg, found['selection'])) == len(chosen) // 2


@pytest.mark.parametrize(
    ('given', 'number', 'places'),
    [
        (None, 3, [0, 2, 4]),
        (None, 4, [0, 1, 3, 4]),
        (None, 7, [0, 1, 2, 3, 4, 5]),
        (4, 2, [0, 2]),
        ([5, 3, 1], 2, [5, 3]),
    ],
)
def test_some_of_the_images_are_spread_over_all(given, number, places, tmp_path):
    """A folder for each class is read class by class."""
    cfg = Config.fromfile(str(write_project('mmpretrain', tmp_path)))
    evaluation = Evaluation(Datasets(), HALF, tmp_path)
    whole = names(cfg, evaluation.images(cfg, 'all')[0])
    assert len(whole) == NUM_VAL == 6
    cfg.val_dataloader.dataset.indices = cfg.test_dataloader.dataset.indices = given
    found, _ = evaluation.some(cfg, *evaluation.images(cfg, 'all'), number)
    assert names(cfg, found) == [whole[place] for place in places]


def write_coco(folder):
    """Four images with one object each; a dataset config and its annotation file."""
    content = dict(images=[], annotations=[], categories=[dict(id=1, name='a')])
    for index in range(4):
        name = f'{index}.jpg'
        cv2.imwrite(str(folder / name), np.zeros((40, 40, 3), np.uint8))
        content['images'].append(dict(id=10 + index, file_name=name, width=40, height=40))
        content['annotations'].append(
            dict(
                id=index + 1,
                image_id=10 + index,
                category_id=1,
                bbox=[5, 5, 20, 20],
                area=400,
                iscrowd=0,
            )
        )
    (folder / 'all.json').write_text(json.dumps(content))
    return dict(
        type='CocoDataset',
        ann_file=str(folder / 'all.json'),
        data_prefix=dict(img=str(folder)),
        metainfo=dict(classes=('a',)),
        test_mode=True,
        pipeline=[],
    )


def coco_config(folder):
    loader = dict(dataset=write_coco(folder))
    metric = dict(type='CocoMetric', ann_file=str(folder / 'all.json'), metric='bbox')
    return Config(
        dict(
            default_scope='mmdet',
            val_dataloader=loader,
            test_dataloader=loader,
            val_evaluator=metric,
            test_evaluator=metric,
        )
    )


@pytest.mark.parametrize(
    ('half', 'number', 'left'), [('report', None, 2), ('report', 1, 1), ('all', 3, 3)]
)
def test_a_coco_metric_counts_the_objects_of_its_images_alone(half, number, left, tmp_path):
    import torch

    cfg = coco_config(tmp_path)
    evaluation = Evaluation(Datasets(), HALF, tmp_path / 'halves')
    loader, evaluator = evaluation.images(cfg, half)
    if number is not None:
        loader, evaluator = evaluation.some(cfg, loader, evaluator, number)
    dataset = build(cfg, loader['dataset'])
    ids = [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))]
    kept = json.loads(Path(evaluator['ann_file']).read_text())
    assert sorted(each['id'] for each in kept['images']) == sorted(ids) and len(ids) == left
    with DefaultScope.overwrite_default_scope('mmdet'):
        built = METRICS.build(evaluator)
    built.dataset_meta = dataset.metainfo
    perfect = dict(
        bboxes=torch.tensor([[5.0, 5, 25, 25]]), scores=torch.ones(1), labels=torch.zeros(1).long()
    )
    samples = [dict(img_id=each, ori_shape=(40, 40), pred_instances=perfect) for each in ids]
    built.process({}, samples)
    assert built.evaluate(left)['coco/bbox_mAP'] == 1.0


def test_lvis_s_metric_is_restricted_as_coco_s(tmp_path):
    cfg = coco_config(tmp_path)
    cfg.val_evaluator.type = cfg.test_evaluator.type = 'LVISMetric'
    _, evaluator = Evaluation(Datasets(), HALF, tmp_path / 'halves').images(cfg, 'report')
    kept = json.loads(Path(evaluator['ann_file']).read_text())
    assert len(kept['images']) == len(kept['annotations']) == 2


def test_annotations_that_were_corrected_are_taken_anew(tmp_path):
    cfg, whole = coco_config(tmp_path), tmp_path / 'all.json'

    def boxes():
        _, evaluator = Evaluation(Datasets(), HALF, tmp_path / 'halves').images(cfg, 'report')
        kept = json.loads(Path(evaluator['ann_file']).read_text())
        return [each['bbox'] for each in kept['annotations']]

    assert boxes() == [[5, 5, 20, 20]] * 2
    whole.write_text(whole.read_text().replace('[5, 5, 20, 20]', '[5, 5, 10, 10]'))
    assert boxes() == [[5, 5, 10, 10]] * 2


def plan_of(folder, **content):
    content.setdefault('arms', dict(stock={}, afan=afan_overrides('mmpretrain')))
    path = write_experiment(folder, **content)
    return Plan(read_experiment(str(path)), Store(folder / 'store'))


def test_keys_name_what_determines_the_figures(tmp_path):
    write_project('mmpretrain', tmp_path / 'a')
    plan = plan_of(tmp_path / 'a')
    stock = plan.spec('stock', 0)
    assert len({stock.key, plan.spec('stock', 1).key, plan.spec('afan', 0).key}) == 3
    # neither where runs are logged nor what else an experiment has
    same = plan_of(tmp_path / 'a', common=dict(work_dir='elsewhere', log_level='ERROR'), seeds=[7])
    assert same.spec('stock', 0).key == stock.key
    assert (
        plan_of(tmp_path / 'a', common={'optim_wrapper.optimizer.lr': 1.0}).spec('stock', 0).key
        != stock.key
    )
    # another half is another measurement of the same training
    other = Plan(plan.experiment, plan.store, 'selection').spec('stock', 0)
    assert other.key == stock.key and set(other.measures).isdisjoint(stock.measures)


def test_runs_of_one_config_have_one_key(tmp_path):
    """Whatever their arms are called and however they are written."""
    write_project('mmpretrain', tmp_path)
    dotted = afan_overrides('mmpretrain')
    nested = {k: v for k, v in dotted.items() if k != 'optim_wrapper.type'}
    nested['optim_wrapper'] = dict(type='AFANOptimWrapper')
    arms = {'other': afan_overrides('mmpretrain', num_steps=2), 'one': dotted, 'two': nested}
    plan = plan_of(tmp_path, arms=arms)
    keys = [plan.spec(name, seed).key for name, seed in (('two', 0), ('one', 0), ('one', 1))]
    assert keys[0] == keys[1] and keys[0].startswith('two-0-') and keys[2].startswith('one-1-')
    assert plan.spec('other', 0).key.startswith('other-0-')
    assert [spec.arm for spec in all_runs(plan, list(arms), [0])] == ['other', 'one']
    # stored under another name, by whatever experiment, or begun
    run = keys[0].partition('-')[2]
    plan.store.run_folder(f'begun.5-{run}').mkdir(parents=True)
    assert plan_of(tmp_path, arms=arms).spec('one', 0).key == f'begun.5-{run}'
    plan.store.save(f'stored.5-{run}', {})
    assert plan.spec('one', 0).key == plan.spec('two', 0).key == f'stored.5-{run}'


def test_keys_do_not_depend_on_where_the_store_is(tmp_path, monkeypatch):
    """Which has the annotation files of halves."""
    write_project('mmdet', tmp_path)
    cfg = Config.fromfile(str(tmp_path / 'stock.py'))
    for key, value in coco_config(tmp_path).items():
        cfg[key] = value
    cfg.dump(str(tmp_path / 'stock.py'))
    plan = plan_of(tmp_path, arms=dict(stock={}), curve_interval=1)
    monkeypatch.chdir(tmp_path)
    stores = [plan.store, Store('store'), Store(str(tmp_path / 'moved'))]
    specs = [Plan(plan.experiment, store).spec('stock', 0) for store in stores]
    assert len({spec.key for spec in specs}) == len({tuple(spec.measures) for spec in specs}) == 1
    for spec, store in zip(specs, stores):
        for evaluator in (spec.evaluation['evaluator'], spec.curve['evaluator']):
            assert Path(evaluator['ann_file']).parent == store.folder / 'halves'


def test_data_are_known_by_content_not_by_time(tmp_path):
    write_project('mmpretrain', tmp_path / 'a')
    before = plan_of(tmp_path / 'a').spec('stock', 0)
    image = next((tmp_path / 'a' / 'train').rglob('*.png'))
    os.utime(image, (0, 0))
    assert plan_of(tmp_path / 'a').spec('stock', 0).key == before.key
    shutil.copy(image, image.with_name('extra.png'))
    assert plan_of(tmp_path / 'a').spec('stock', 0).key != before.key
    validation = next((tmp_path / 'a' / 'val').rglob('*.png'))
    shutil.copy(validation, validation.with_name('extra.png'))
    assert set(plan_of(tmp_path / 'a').spec('stock', 0).measures).isdisjoint(before.measures)


def test_images_of_several_datasets_cannot_be_chosen(tmp_path):
    """Which is said before anything is trained, with the key that asks for it."""
    write_project('mmpretrain', tmp_path)
    cfg = Config.fromfile(str(tmp_path / 'stock.py'))
    one = cfg.val_dataloader.dataset.to_dict()
    several = dict(type='ConcatDataset', datasets=[dict(one, data_prefix='train')])
    cfg.test_dataloader = dict(cfg.test_dataloader, dataset=several)
    cfg.dump(str(tmp_path / 'stock.py'))
    measures = [dict(type='robust', num_images=2)]
    plan = plan_of(tmp_path, arms=dict(stock={}), measures=measures)
    with pytest.raises(DataError, match='^num_images cannot choose images of ConcatDataset, .* le'):
        plan.spec('stock', 0)
    plan.experiment.measures = [dict(type='robust')]
    assert plan.spec('stock', 0).measures
    cfg.val_dataloader = cfg.test_dataloader
    with pytest.raises(DataError, match='^selection cannot choose .* a test set of its own'):
        Evaluation(Datasets(), HALF, tmp_path).images(cfg, 'report')


def test_missing_data_are_said(tmp_path):
    write_project('mmpretrain', tmp_path / 'a')
    shutil.rmtree(tmp_path / 'a' / 'train')
    with pytest.raises(DataError, match='cannot read the data of CustomDataset'):
        plan_of(tmp_path / 'a').spec('stock', 0)


def test_a_stock_run_does_not_depend_on_the_source_of_afan_mm(tmp_path):
    cfg = Config.fromfile(str(write_project('mmpretrain', tmp_path)))
    assert not uses_afan(cfg) and 'afan_mm' not in environment(cfg)
    cfg.merge_from_dict(afan_overrides('mmpretrain'))
    assert uses_afan(cfg) and len(environment(cfg)['afan_mm']) == 16
    assert {'torch', 'mmengine', 'mmpretrain'} <= set(environment(cfg))


def test_the_classes_of_a_config_in_the_pure_python_style_are_known(tmp_path):
    path = tmp_path / 'pure.py'
    path.write_text(
        'from afan_mm.models import AFANNeckWrapper\n'
        'from torch.nn import Identity\n'
        'model = dict(backbone=dict(type=Identity), neck=dict(type=AFANNeckWrapper))\n'
    )
    cfg = Config.fromfile(str(path))
    assert uses_afan(cfg) and uses_afan(Config(cfg.to_dict()))
    assert control(cfg, cfg).model.neck.afan == dict(perturbation='none')
    del cfg.model['neck']
    assert not uses_afan(cfg)


@pytest.mark.parametrize(
    'overrides',
    (
        dict(load_from='{0}'),
        {'model.backbone.init_cfg': dict(type='Pretrained', checkpoint='{0}')},
        {'model.backbone.init_cfg': [dict(type='Pretrained', checkpoint='{0}')]},
    ),
    ids=('load_from', 'init_cfg', 'list'),
)
def test_other_weights_to_start_from_are_another_run(overrides, tmp_path):
    write_project('mmpretrain', tmp_path)
    weights = tmp_path / 'weights.pth'
    arms = json.loads(json.dumps(dict(stock=overrides)).replace('{0}', str(weights)))
    keys = []
    for content in (b'one', b'other', b'one'):
        weights.write_bytes(content)
        keys.append(plan_of(tmp_path, arms=arms).spec('stock', 0).key)
    assert keys[0] == keys[2] != keys[1]


def test_other_source_of_a_module_of_the_user_s_is_another_run(tmp_path, monkeypatch):
    """A file, or a package with all that is in it; of what is installed the version tells."""
    write_project('mmpretrain', tmp_path)
    package = tmp_path / 'own_package'
    package.mkdir()
    (package / '__init__.py').write_text('from . import part')
    files = [tmp_path / 'own_module.py', package / 'part.py']
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = ['own_module', 'own_package', 'numpy', 'afan_mm', 'own_missing']
    imports = dict(imports=modules, allow_failed_imports=True)

    def spec(*sources):
        for path, source in zip(files, sources):
            path.write_text(source)
        return plan_of(tmp_path, arms=dict(stock=dict(custom_imports=imports))).spec('stock', 0)

    first = spec('A = 1', 'B = 1')
    keys = {first.key, spec('A = 2', 'B = 1').key, spec('A = 1', 'B = 2').key}
    assert len(keys) == 3 and spec('A = 1', 'B = 1').key == first.key
    own = [name for name in first.environment if name.startswith('source of')]
    assert own == ['source of own_module', 'source of own_package']


def test_a_measure_of_the_user_s_that_was_changed_is_another_measurement(tmp_path, monkeypatch):
    write_project('mmpretrain', tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    specs = []
    for figure in (1, 2):
        (tmp_path / 'changed_measure.py').write_text(
            'from afan_mm.experiments import measure\n'
            f'@measure\ndef changed(trained):\n    return dict(figure={figure})\n'
        )
        content = dict(measures=['stock', 'changed'], arms=dict(stock={}))
        content['custom_imports'] = dict(imports=['changed_measure'])
        specs.append(plan_of(tmp_path, **content).spec('stock', 0))
    one, other = (list(spec.measures) for spec in specs)
    assert specs[0].key == specs[1].key
    assert one[0] == other[0] and one[1] != other[1]
