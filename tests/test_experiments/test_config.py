"""Reading experiments, and the fair references to an arm."""

import re

import pytest
from mmengine.config import Config

from afan_mm.experiments import ExperimentError, read_experiment, select_arms
from afan_mm.experiments.arms import Arms
from afan_mm.experiments.references import (
    components,
    control,
    longer,
    scaled,
    sites_of,
    sum_of_weights,
)
from afan_mm.models import AFANDecodeHead
from support.paths import CONFIGS

BASE = dict(
    model=dict(neck=dict(afan=dict(epsilon=0.1, num_strengths=3, adv_weight=0.5))),
    optim_wrapper=dict(type='AFANOptimWrapper', clean_weight=2.0, optimizer=dict(lr=0.1)),
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=100, val_interval=50),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.1, begin=0, end=10, by_epoch=False),
        dict(type='PolyLR', eta_min=0.01, begin=10, end=100, by_epoch=False),
    ],
)


def afan_dicts(model):
    return [site for part in components(model) for site in sites_of(part)]


def experiment(folder, **content):
    Config(BASE).dump(str(folder / 'base.py'))
    content.setdefault('arms', dict(stock={}, afan={}))
    path = folder / 'trial.py'
    path.write_text('\n'.join(f'{k} = {v!r}' for k, v in {'base': 'base.py', **content}.items()))
    return read_experiment(str(path))


def test_overrides_merge_by_dotted_keys_and_replace_with_delete(tmp_path):
    arms = dict(
        dotted={'model.neck.afan.epsilon': 0.2, 'param_scheduler.1.eta_min': 0.0},
        nested=dict(model=dict(neck=dict(afan=dict(epsilon=0.3)))),
        replaced=dict(model=dict(neck=dict(afan=dict(_delete_=True, num_steps=2)))),
        new={'model.head': dict(_delete_=True, type='New')},
    )
    read = Arms(experiment(tmp_path, arms=arms, common={'train_cfg.max_iters': 7}))
    afan = {name: read.config(name).model.neck.afan for name in arms}
    assert afan['dotted'] == dict(epsilon=0.2, num_strengths=3, adv_weight=0.5)
    assert read.config('dotted').param_scheduler[1].eta_min == 0.0
    assert afan['nested'] == dict(epsilon=0.3, num_strengths=3, adv_weight=0.5)
    assert afan['replaced'] == dict(num_steps=2)
    assert read.config('new').model.head == dict(type='New')
    assert {read.config(name).train_cfg.max_iters for name in arms} == {7}


def test_a_grid_is_an_arm_for_each_combination(tmp_path):
    key = 'model.neck.afan.'
    grid = dict(afan={f'{key}num_steps': [1, 3], f'{key}epsilon,{key}step_size': [0.5, 0.25]})
    read = experiment(tmp_path, arms=dict(stock={}, afan={f'{key}epsilon': 9}), grid=grid)
    names = [f'afan-num_steps={n}-epsilon={e}' for n in (1, 3) for e in (0.5, 0.25)]
    assert list(read.arms) == ['stock', *names]
    afan = Arms(read).config('afan-num_steps=3-epsilon=0.25').model.neck.afan
    assert (afan.num_steps, afan.epsilon, afan.step_size) == (3, 0.25, 0.25)
    assert select_arms(read, ['afan-num_steps=1*']) == names[:2]


def test_the_arm_that_a_grid_varies_stays_where_a_reference_is_of_it(tmp_path):
    grid = dict(afan={'model.neck.afan.num_steps': [3]})
    read = experiment(tmp_path, arms=dict(afan={}, control=dict(of='afan')), grid=grid)
    assert list(read.arms) == ['afan', 'control', 'afan-num_steps=3']


@pytest.mark.parametrize(('name', 'perturbation'), [('control', 'none'), ('gaussian', 'gaussian')])
def test_control_and_gaussian_change_every_site_alone(tmp_path, name, perturbation):
    sites = [dict(site='a'), dict(site='b', perturbation='gradient+gaussian', noise_epsilon=1.0)]
    arms = dict(afan={'model.head': dict(afan=sites)})
    arms[name] = dict(of='afan')
    read = Arms(experiment(tmp_path, arms=arms))
    found = afan_dicts(read.config(name).model)
    assert [each['perturbation'] for each in found] == [perturbation] * 3
    assert [each.get('site') for each in found] == [None, 'a', 'b']
    assert 'noise_epsilon' not in found[2]
    before = afan_dicts(read.config('afan').model)
    assert 'perturbation' not in before[0] and before[2]['noise_epsilon'] == 1.0


@pytest.mark.parametrize('kind', ['AFANDecodeHead', AFANDecodeHead])
def test_a_component_that_says_nothing_of_its_site_has_the_paper_s(kind):
    parts = dict(backbone=dict(type='ResNet'), decode_head=[dict(type=kind, base='FCNHead')])
    cfg = Config(dict(BASE, model=dict(BASE['model'], **parts)))
    found = control(cfg, cfg).model
    assert found.decode_head[0].afan == dict(perturbation='none')
    assert found.neck.afan.perturbation == 'none' and 'afan' not in found.backbone
    assert 'afan' not in cfg.model.decode_head[0]
    assert sum_of_weights(cfg) == 2 + 3 * 0.5 + 3 * 1  # three strengths of weight one


def test_an_arm_of_several_has_a_reference_for_each(tmp_path):
    arms = dict(one={}, two={'model.neck.afan.num_steps': 2}, control=dict(of=['one', 'two']))
    read = experiment(tmp_path, arms=arms, references=['control'])
    assert list(read.arms) == ['one', 'two', 'control-one', 'control-two']
    assert Arms(read).config('control-two').model.neck.afan.num_steps == 2


def test_scaled_is_stock_with_its_learning_rate_times_the_sum_of_weights():
    cfg = Config(BASE)
    assert sum_of_weights(cfg) == 2 + 3 * 0.5
    found = scaled(cfg, cfg)
    assert found.optim_wrapper.optimizer.lr == pytest.approx(0.35)
    assert found.param_scheduler[1].eta_min == pytest.approx(0.035)
    assert found.param_scheduler[0].start_factor == 0.1  # a factor on the rate
    assert cfg.optim_wrapper.optimizer.lr == 0.1
    decay = dict(type='CosineAnnealingParamScheduler', param_name='weight_decay', eta_min=0.5)
    plateau = dict(type='ReduceOnPlateauLR', monitor='mIoU', min_value=0.02)
    cfg.param_scheduler = [decay, plateau]
    decay, plateau = scaled(cfg, cfg).param_scheduler
    assert decay.eta_min == 0.5 and plateau.min_value == pytest.approx(0.07)


def test_the_sum_of_weights_passes_over_what_a_component_takes_beside_settings():
    site = dict(site='backbone.layer4', levels=[3], reuse_proposals=True, num_strengths=2)
    cfg = Config(dict(BASE, model=dict(neck=dict(type='AFANNeckWrapper', base='FPN', afan=site))))
    assert scaled(cfg, cfg).optim_wrapper.optimizer.lr == pytest.approx(0.1 * (2 + 2))
    cfg.model.neck.afan.num_strength = 2
    with pytest.raises(ValueError, match="afan has no setting \\['num_strength'\\]"):
        scaled(cfg, cfg)


def test_the_sum_of_weights_of_joint_sites_and_of_a_complement():
    site = dict(joint=True, adv_weight=0.5, num_strengths=1)
    afan = [dict(site, name='a'), dict(site, name='b')]
    cfg = Config(dict(model=dict(neck=dict(afan=afan)), optim_wrapper=dict(clean_weight=0.5)))
    assert sum_of_weights(cfg) == 1.0  # one pass, one loss
    cfg.optim_wrapper.clean_weight = 'complement'
    cfg.model.neck.afan[0].adv_weight = cfg.model.neck.afan[1].adv_weight = 0.3
    assert sum_of_weights(cfg) == 1.0


def test_longer_stretches_the_schedule():
    found = longer(Config(BASE), 2.5)
    assert found.train_cfg.max_iters == 250
    warm_up, poly = found.param_scheduler
    assert (warm_up.begin, warm_up.end, poly.begin, poly.end) == (0, 25, 25, 250)
    epochs = Config(dict(BASE, train_cfg=dict(by_epoch=True, max_epochs=10)))
    epochs.param_scheduler = dict(type='MultiStepLR', milestones=[4, 8], by_epoch=True)
    found = longer(epochs, 1.5)
    assert found.train_cfg.max_epochs == 15
    assert found.param_scheduler.milestones == [6, 12]
    epochs.param_scheduler = [
        dict(type='CosineRestartLR', periods=[2, 8], restart_weights=[1, 0.5]),
        dict(type='ExponentialLR', gamma=0.25, begin=2, end=10),
    ]
    restarts, decay = longer(epochs, 2).param_scheduler
    assert restarts.periods == [4, 16] and restarts.restart_weights == [1, 0.5]
    # where it ends is where stock ends
    assert (decay.begin, decay.end) == (4, 20) and decay.gamma**16 == pytest.approx(0.25**8)
    with pytest.raises(ValueError, match='factor must be a number > 0, but got 0'):
        longer(epochs, 0)


def test_the_references_of_the_camvid_config(tmp_path):
    seg = CONFIGS / 'deeplabv3plus'
    arms = dict(
        stock={},
        afan=dict(config=str(seg / 'afan_deeplabv3plus_r18-d8_1xb4-250_camvid-240x180.py')),
        control=dict(of='afan'),
        scaled=dict(of='afan'),
        longer=dict(factor=2),
        afan_longer=dict(config=str(seg / 'afan_deeplabv3plus_r18-d8_1xb4-250_camvid-240x180.py')),
        its_control=dict(reference='control', of='afan_longer'),
    )
    arms['afan_longer']['factor'] = 2
    path = tmp_path / 'trial.py'
    base = str(seg / 'deeplabv3plus_r18-d8_1xb4-250_camvid-240x180.py')
    path.write_text(f'base = {base!r}\narms = {arms!r}')
    read = Arms(read_experiment(str(path)))
    sites = afan_dicts(read.config('control').model)
    assert [each['perturbation'] for each in sites] == ['none', 'none']
    assert read.config('scaled').optim_wrapper.optimizer.lr == pytest.approx(0.05 * 7)
    assert read.config('scaled').model == read.config('stock').model
    assert read.config('longer').train_cfg.max_iters == 500
    assert read.config('longer').param_scheduler[0].end == 500
    assert read.config('afan_longer').train_cfg == read.config('longer').train_cfg
    assert read.config('afan_longer').param_scheduler == read.config('longer').param_scheduler
    assert read.config('afan_longer').model == read.config('afan').model
    assert read.config('its_control').train_cfg.max_iters == 500


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(arm={}), "must set 'base' and 'arms'"),
        (dict(arms=dict(control={})), 'of of arm control must be one of'),
        (dict(arms=dict(a={}, control=dict(of='b'))), "but got 'b'"),
        (dict(arms=dict(a=dict(reference='same', of='a'))), "but got 'same'"),
        (dict(arms=dict(a={}, control=dict(of='a', factor=2))), 'a control of, but got 2'),
        (dict(grid=dict(missing={'x': [1]})), "grid must vary one of .*, but got 'missing'"),
        (dict(references=['none']), "references must be among .*, but got 'none'"),
        (dict(grid=dict(afan={'x': [0.12341, 0.12342]})), "two of the name 'afan-x=0.1234'"),
        (dict(arms={'a': {}, 'control-a': {}, 'control': dict(of=['a'])}), "name 'control-a'"),
        (dict(grid=dict(afan={'x': 1})), "lists of values by key, but got {'x': 1}"),
        (dict(arms=['a']), r"arms must be a dict, but got \['a'\]"),
        (dict(arms=dict(afan='../y.py')), "arm afan must be a dict of .*, but got '../y.py'"),
        (dict(arms=dict(afan=dict(config=3))), 'config of arm afan must be a path, but got 3'),
        (dict(measures=[3]), 'measures must be names, .* but got 3'),
        (dict(seeds='0-4'), "seeds must be a list .*, but got '0-4'"),
        (dict(seeds=[0, '1']), "seeds must be integers, but got '1'"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, content, message):
    with pytest.raises(ExperimentError, match=message):
        experiment(tmp_path, **content)


def test_configs_that_a_package_installs(tmp_path):
    named = 'mmseg::_base_/schedules/schedule_20k.py'
    arms = dict(stock={}, own=dict(config='mmseg::_base_/schedules/schedule_40k.py'))
    read = Arms(experiment(tmp_path, base=named, arms=arms))
    assert read.config('stock').train_cfg.max_iters == 20000
    assert read.config('own').train_cfg.max_iters == 40000
    read = Arms(experiment(tmp_path, base='mmseg::missing.py', arms=dict(stock={})))
    with pytest.raises(ExperimentError, match='arm stock: config must be one that mmseg installs'):
        read.config('stock')


@pytest.mark.parametrize(
    ('name', 'alike'),
    [
        ('bccd', 'steps-1 strengths-5 location-B4 step_size-0.3'),
        ('camvid', 'steps-1 strengths-3 location-B4 step_size-0.4'),
        ('cifar10-500', 'steps-1 strengths-1 location-S6+S7+V length-0.1'),
    ],
)
def test_the_panels_of_an_ablation_share_the_setting_that_they_vary(name, alike):
    read = Arms(read_experiment(str(CONFIGS / 'experiments' / f'ablation_{name}.py')))
    first, *others = (read.config(each).to_dict() for each in alike.split())
    assert all(each == first for each in others)
    assert read.config('steps-3').to_dict() != first


@pytest.mark.parametrize('name', ['cifar10-500', 'camvid30-frozen', 'camvid15', 'bccd20-frozen'])
def test_the_values_of_stock_that_a_tuning_names_are_its_base_config_s(name):
    (path,) = (CONFIGS / 'experiments').glob(f'*_{name}_tuning.py')
    base = Config.fromfile(str(path.parent / Config.fromfile(str(path)).base))
    said = re.findall(r"'optim_wrapper\.optimizer\.(.+)': .*# stock's: (.+)", path.read_text())
    assert [key for key, _ in said] == ['lr', 'weight_decay']
    assert [base.optim_wrapper.optimizer[key] for key, _ in said] == [float(v) for _, v in said]


def test_an_arm_that_cannot_be_read_is_named(tmp_path):
    read = experiment(tmp_path, arms=dict(plain={'model.neck': dict(_delete_=True)}))
    read.arms['control'] = read.arms['plain'].__class__('control', reference='control', of='plain')
    with pytest.raises(ExperimentError, match='arm control: .* needs an arm with afan='):
        Arms(read).config('control')
    with pytest.raises(ExperimentError, match="arms must be among plain, control, but got 'x'"):
        select_arms(read, ['x'])
