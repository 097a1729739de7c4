"""Runs of real tiny projects: what is stored, paired, resumed, and said of failures."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from afan_mm import AFANSettings
from afan_mm.auxiliary_norms import add_auxiliary_norms
from afan_mm.experiments import (
    Plan,
    Scheduler,
    Store,
    Trained,
    collect,
    read_experiment,
    run_experiment,
)
from afan_mm.experiments import run as run_module
from afan_mm.experiments.measures import MEASURES, plain_figures
from afan_mm.experiments.measures.base import METRIC_OF
from afan_mm.experiments.notes import same_weights, weights_digest
from support import toy
from support.paths import ROOT, TOOLS
from support.projects import CLASSES, PRIMARY, afan_overrides, write_experiment, write_project

HOSTS = ('mmseg', 'mmdet', 'mmpretrain')
SHORT = {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2}


def plan_of(folder, host, **content):
    content = dict(dict(common=SHORT, primary=PRIMARY[host], measures=['stock']), **content)
    path = write_experiment(folder, **content)
    return Plan(read_experiment(str(path)), Store(folder / 'store'))


def execute(plan, arms=None, seeds=(0,), **options):
    """Run in this process; what failed and what was said."""
    said = []
    options = dict(dict(executor='debug'), **options)
    scheduler = Scheduler(plan.store.folder / 'jobs', say=said.append, **options)
    arms = list(plan.experiment.arms) if arms is None else arms
    failed = run_experiment(plan, arms, list(seeds), scheduler, said.append)
    return failed, said


@pytest.mark.parametrize('host', HOSTS)
def test_an_experiment_of_each_host(host, tmp_path):
    write_project(host, tmp_path)
    arms = dict(stock={}, afan=afan_overrides(host), control=dict(of='afan'))
    calibration = ['detection_calibration'] if host == 'mmdet' else ['nll', 'calibration']
    measures = ['stock', 'cost', 'per_class', *calibration]
    plan = plan_of(tmp_path, host, arms=arms, measures=measures)
    failed, said = execute(plan)
    assert not failed and len(plan.store.all()) == 3
    assert any('3 of 3 runs: control seed 0 done' in line for line in said)
    # the same weights and the same data before the first step of each arm, and so paired
    trainings = [record['training'] for record in plan.store.all()]
    assert len({each['initial_weights'] for each in trainings}) == 1
    assert len({each['first_batches'] for each in trainings}) == 1
    assert all(each['iterations'] == 2 and not each['resumed'] for each in trainings)
    assert all(each['threads'] == plan.threads for each in trainings)
    results = collect(plan, list(arms), [0])
    assert results['unpaired'] == [] and results['missing'] == []
    assert results['primary'].endswith(PRIMARY[host])
    compared = results['metrics'][results['primary']]['comparisons']
    assert {each['arm'] for each in compared} == {'afan', 'control'}
    if host == 'mmdet':
        errors = results['metrics']['detection_calibration/d_ece']
        assert 0 < errors['values']['stock'][0] < 1 and not errors['larger_is_better']
    else:
        assert results['metrics']['nll']['values']['stock'][0] > 0
        assert 0 <= results['metrics']['calibration/ece']['values']['stock'][0] <= 1
    # those that the images have
    of_classes = [name for name in results['metrics'] if name.startswith('per_class/')]
    present = CLASSES if host == 'mmseg' else CLASSES[:2]
    assert of_classes == [f'per_class/{name}' for name in present]
    # nothing runs twice
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'store').rglob('*.json')}
    failed, said = execute(plan)
    assert not failed and '3 runs, 3 of them stored' in said[0]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list((tmp_path / 'store').rglob('*.pth'))


def test_arms_of_one_training_are_measured_apart(tmp_path):
    """One run, whose record has the figures of both evaluations."""
    write_project('mmpretrain', tmp_path)
    evaluator = dict(type='Accuracy', topk=(1, 2))
    arms = dict(stock={}, wider=dict(val_evaluator=evaluator, test_evaluator=evaluator))
    plan = plan_of(tmp_path, 'mmpretrain', arms=arms)
    failed, said = execute(plan)
    assert not failed and '2 runs, 0 of them stored' in said[0]
    (record,) = plan.store.all()
    assert len(record['measured']) == 2
    results = collect(plan, list(arms), [0])
    assert results['missing'] == []
    assert results['one_run'] == []
    first, second = (results['metrics'][f'accuracy/top{k}']['values'] for k in (1, 2))
    assert first['stock'] == first['wider'] and not second['stock'] and second['wider']


@pytest.mark.parametrize('host', HOSTS)
def test_perturbed_and_corrupted_images_are_measured_within_a_run(host, tmp_path):
    write_project(host, tmp_path)
    few = dict(num_images=2)
    robust = dict(type='robust', num_steps=1, **few)
    corruptions = dict(type='corruptions', corruptions=['brightness'], severities=[1, 5], **few)
    plan = plan_of(tmp_path, host, arms=dict(stock={}), measures=['stock', robust, corruptions])
    failed, said = execute(plan)
    assert not failed, said
    (record,) = plan.store.all()
    found = {each['measure']['type']: each for each in record['measured'].values()}
    corrupted, attacked = found['corruptions'], found['robust']['figures']
    details = corrupted['details']
    levels = [
        details['corrupted']['brightness'][severity][details['metric']] for severity in ('1', '5')
    ]
    assert corrupted['figures']['corruptions/mPC'] == pytest.approx(sum(levels) / 2)
    assert any('robust' in name for name in attacked)
    metrics = collect(plan, ['stock'], [0])['metrics']
    assert {'corruptions/mPC', 'corruptions/rPC'} <= set(metrics)


def test_what_a_run_forks_ends_though_the_run_passes_over_the_signal():
    """Where SIGTERM is ignored, as in submitit's jobs."""
    code = (
        'import multiprocessing, signal, time\n'
        'from afan_mm.experiments.run import let_children_end\n'
        'signal.signal(signal.SIGTERM, lambda *_: None)\n'
        'let_children_end()\n'
        "fork = multiprocessing.get_context('fork')\n"
        'ready = fork.Event()\n'
        'child = fork.Process(target=lambda: (ready.set(), time.sleep(60)))\n'
        'child.start(); ready.wait(); child.terminate(); child.join(30)\n'
        'print(child.exitcode, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n'
        'child.kill()\n'
    )
    output = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, check=True).stdout
    assert output.split() == [b'-15', b'False']


def test_another_seed_has_other_weights_and_data(tmp_path):
    write_project('mmpretrain', tmp_path)
    plan = plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}))
    execute(plan, seeds=(0, 1))
    one, two = (record['training'] for record in plan.store.all())
    assert one['initial_weights'] != two['initial_weights']
    assert one['first_batches'] != two['first_batches']


def test_auxiliary_norms_do_not_unpair_an_arm():
    """They start as copies of the main norms, and stock has none to compare them with."""
    model = toy.host(None)
    before = weights_digest(model)
    model.afan = AFANSettings(bn_stats='auxiliary')
    add_auxiliary_norms(model)
    assert weights_digest(model) == before
    model.norm.bias.data += 1
    assert weights_digest(model) != before


def test_arms_of_one_config_are_one_run(tmp_path):
    """As the panels of an ablation, which share the setting that they vary, and whichever of them
    comes first.
    """
    write_project('mmpretrain', tmp_path)
    arms = {'stock': {}, 'steps-1': afan_overrides('mmpretrain')}
    arms['strengths-3'] = afan_overrides('mmpretrain')
    arms['strengths-3']['optim_wrapper'] = dict(type=arms['strengths-3'].pop('optim_wrapper.type'))
    plan = plan_of(tmp_path, 'mmpretrain', arms=arms)
    failed, said = execute(plan, arms=['strengths-3'])
    assert not failed and said[0] == 'trial: 1 runs, 0 of them stored'
    assert collect(plan, list(arms), [0])['missing'] == ['stock seed 0']
    failed, said = execute(plan)
    assert not failed and said[0] == 'trial: 2 runs, 1 of them stored'
    assert [record['arm'] for record in plan.store.all()] == ['stock', 'strengths-3']
    results = collect(plan, list(arms), [0])
    values = results['metrics'][PRIMARY['mmpretrain']]['values']
    assert values['steps-1'] == values['strengths-3'] != {}
    assert results['one_run'] == [['steps-1', 'strengths-3']]


def test_a_failing_run_is_named_and_stops_no_other(tmp_path):
    write_project('mmpretrain', tmp_path)
    broken = {'model.head.in_channels': 3}
    plan = plan_of(tmp_path, 'mmpretrain', arms=dict(broken=broken, stock={}))
    failed, said = execute(plan)
    assert failed == ['broken seed 0']
    assert [record['arm'] for record in plan.store.all()] == ['stock']
    (line,) = [line for line in said if 'FAILED' in line]
    assert 'mat1 and mat2' in line
    assert collect(plan, ['broken', 'stock'], [0])['missing'] == ['broken seed 0']


def test_longer_is_as_long_as_the_arm_takes(tmp_path):
    write_project('mmpretrain', tmp_path)
    slow = afan_overrides('mmpretrain', num_steps=200)  # or longer were as long as stock, one run
    arms = dict(longer=dict(of='afan'), stock={}, afan=slow)
    plan = plan_of(tmp_path, 'mmpretrain', arms=arms)
    assert plan.waits('longer')
    failed, said = execute(plan, arms=['longer'])
    assert failed == ['longer (needs whole runs, timed alike, that it is measured by)']
    failed, said = execute(plan)
    assert not failed and plan.factor('longer') > 0
    (record,) = [each for each in plan.store.all() if each['arm'] == 'longer']
    assert record['training']['iterations'] == max(1, round(2 * plan.factor('longer')))
    # once measured it stays, whatever later runs take
    again = Plan(plan.experiment, plan.store)
    assert again.factor('longer') == plan.factor('longer')


def test_longer_is_measured_on_a_seed_that_was_not_interrupted(tmp_path):
    write_project('mmpretrain', tmp_path)
    arms = dict(longer=dict(of='afan'), stock={}, afan=afan_overrides('mmpretrain'))
    plan = plan_of(tmp_path, 'mmpretrain', arms=arms, seeds=[0, 1])

    def store(arm, seed, seconds, resumed):
        spec = plan.spec(arm, seed)
        training = dict(cpu_seconds=seconds, seconds=99.0, iterations=2, device='cpu', workers=0)
        training['resumed'] = resumed
        plan.store.save(spec.key, dict(measured={k: {} for k in spec.measures}, training=training))

    store('stock', 0, 1.0, False)
    store('afan', 0, 0.0, True)  # killed at its end
    assert plan.waits('longer')
    store('stock', 1, 1.0, False)
    store('afan', 1, 2.5, False)
    assert plan.factor('longer') == 2.5


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    """Killed between training and measuring: the second time only measures."""
    write_project('mmpretrain', tmp_path)

    def stop(trained):
        raise KeyError('interrupted')

    monkeypatch.setitem(MEASURES, 'stop', stop)
    plan = plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), measures=['stock', 'stop'])
    failed, _ = execute(plan)
    assert failed == ['stock seed 0']
    (record,) = plan.store.all()
    monkeypatch.setitem(MEASURES, 'stop', lambda trained: dict(figure=1.0))
    monkeypatch.setattr('mmengine.runner.Runner.train', None)  # must not be asked for
    failed, _ = execute(plan)
    assert not failed
    (after,) = plan.store.all()
    assert after['training'] == record['training'] and len(after['measured']) == 2
    assert not list((tmp_path / 'store').rglob('*.pth'))


def test_a_measure_that_is_added_later_takes_the_weights_that_were_kept(tmp_path, monkeypatch):
    """Also where the weights to measure are an average, which hooks keep and put in place."""
    write_project('mmpretrain', tmp_path)
    ema = dict(type='EMAHook', momentum=0.5)
    options = dict(arms=dict(stock={}), common=dict(SHORT, custom_hooks=[ema]))
    options['keep_checkpoints'] = True
    plan = plan_of(tmp_path, 'mmpretrain', measures=['nll'], **options)
    assert not execute(plan)[0]
    (first,) = plan.store.all()
    # the same figure by another name
    monkeypatch.setitem(MEASURES, 'again', MEASURES['nll'])
    monkeypatch.setitem(METRIC_OF, 'again', METRIC_OF['nll'])
    monkeypatch.setattr('mmengine.runner.Runner.train', None)  # must not be asked for
    plan = plan_of(tmp_path, 'mmpretrain', measures=['nll', 'again'], **options)
    failed, said = execute(plan)
    assert not failed, said
    (record,) = plan.store.all()
    nll, again = (
        next(each for each in record['measured'].values() if each['measure']['type'] == name)
        for name in ('nll', 'again')
    )
    assert nll == next(iter(first['measured'].values()))
    assert again['figures'] == {'again/nll': pytest.approx(nll['figures']['nll'], rel=1e-6)}


@pytest.mark.parametrize(('threads', 'again'), ((2, 1), (1, 2)), ids=('as many', 'other'))
def test_the_figures_of_a_record_are_of_one_training(threads, again, tmp_path, monkeypatch):
    """Without the weights a measure that is added needs another training: the same on as many
    threads, and otherwise one after which everything is measured anew.
    """
    write_project('mmpretrain', tmp_path)
    calls = []

    def call(trained):
        calls.append(trained)
        return dict(number=len(calls))

    monkeypatch.setitem(MEASURES, 'call', call)
    for threads_now, measures in ((2, ['call']), (threads, ['call', 'nll'])):
        plan = plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), measures=measures)
        plan.threads = threads_now
        assert not execute(plan)[0]
    run_module.limit_threads(1)  # as the suite has it
    (record,) = plan.store.all()
    figures = [each['figures'] for each in record['measured'].values()]
    assert len(figures) == 2 and dict.fromkeys(['call/number'], again) in figures
    assert record['training']['threads'] == threads


def test_which_trainings_end_in_the_same_weights():
    one = dict(device='cpu', threads=1, seconds=1.0)
    assert same_weights(one, dict(one, seconds=2.0))
    for change in (dict(device='cuda'), dict(threads=2), dict(resumed=True)):
        other = {**one, **change, 'seconds': 2.0}
        assert not same_weights(one, other) and not same_weights(other, one)
    assert not same_weights(dict(one, device='cuda'), dict(one, device='cuda', seconds=2.0))
    assert same_weights(dict(one, device='cuda'), dict(one, device='cuda'))


@pytest.fixture
def stopped(monkeypatch):
    """A context in which every training stops after its second iteration."""
    original = run_module.train

    def train(cfg, folder):
        cfg.custom_hooks = [dict(type='StopAt', iteration=2)]
        return original(cfg, folder)

    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    class StopAt(Hook):
        priority = 'LOWEST'

        def __init__(self, iteration):
            self.iteration = iteration

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == self.iteration:
                raise RuntimeError('stopped')

    @contextlib.contextmanager
    def context():
        HOOKS.register_module(module=StopAt, force=True)
        with monkeypatch.context() as patch:
            patch.setattr(run_module, 'train', train)
            yield

    return context


def test_a_training_goes_on_from_its_checkpoint(tmp_path, stopped):
    write_project('mmpretrain', tmp_path)
    plan = plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), common={'train_cfg.max_iters': 4})
    with stopped():
        assert execute(plan)[0] == ['stock seed 0']
    (tmp_path / 'store').rename(tmp_path / 'moved')
    time.sleep(1)  # two runners of one second and process share what writes to the first's folder
    plan = Plan(plan.experiment, Store(tmp_path / 'moved'))
    assert not execute(plan)[0]
    (record,) = plan.store.all()
    assert record['training']['resumed'] and record['training']['iterations'] == 4
    assert record['training']['initial_weights']


def test_a_training_that_is_stopped_is_not_taken_for_an_earlier_one(tmp_path, stopped):
    """Trained again for a measure that was added, without the weights."""
    write_project('mmpretrain', tmp_path)
    options = dict(arms=dict(stock={}), common={'train_cfg.max_iters': 4})
    assert not execute(plan_of(tmp_path, 'mmpretrain', measures=['stock'], **options))[0]
    plan = plan_of(tmp_path, 'mmpretrain', measures=['stock', 'nll'], **options)
    with stopped():
        assert execute(plan)[0] == ['stock seed 0']
    assert not execute(plan)[0]
    (record,) = plan.store.all()
    assert record['training']['resumed'] and record['training']['iterations'] == 4
    assert len(record['measured']) == 2


@pytest.mark.parametrize(
    'measure',
    [
        dict(type='robust', num_image=2),
        dict(type='robust', step=1),
        dict(type='corruptions', severity=[1]),
        dict(type='nll', bins=3),
    ],
)
def test_settings_that_a_measure_does_not_have_are_refused_before_any_run(tmp_path, measure):
    name = list(measure)[1]
    with pytest.raises(ValueError, match=f'measure {measure["type"]} .* argument .{name}'):
        plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), measures=[measure])
    known = [dict(type='robust', num_images=2, num_steps=1, show_interval=2), 'nll']
    known.append(dict(type='corruptions', severities=[1], num_images=2))
    plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), measures=known)


@pytest.mark.parametrize('number', (0, 2.5, True))
def test_a_number_of_images_is_checked_before_any_run(tmp_path, number):
    measures = [dict(type='corruptions', num_images=number)]
    with pytest.raises(ValueError, match='num_images must be an integer >= 1, but got'):
        plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), measures=measures)


def test_a_measure_of_the_user_s_own(tmp_path, monkeypatch):
    write_project('mmpretrain', tmp_path)
    (tmp_path / 'own_measures.py').write_text(
        'from afan_mm.experiments import measure\n'
        '@measure\n'
        'def parameters(trained):\n'
        '    return dict(number=sum(p.numel() for p in trained.runner.model.parameters()))\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    measures = ['stock', 'parameters']
    plan = plan_of(
        tmp_path,
        'mmpretrain',
        arms=dict(stock={}),
        measures=measures,
        custom_imports=dict(imports=['own_measures']),
    )
    assert plan.spec('stock', 0).imports == ['own_measures']
    assert not execute(plan)[0]
    results = collect(plan, ['stock'], [0])
    assert results['metrics']['parameters/number']['values']['stock'][0] > 1000
    with pytest.raises(ValueError, match="measures must be among .*, but got 'missing'"):
        plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), measures=['missing'])


def test_figures_of_numpy_and_torch_are_stored_as_numbers(tmp_path, monkeypatch):
    write_project('mmpretrain', tmp_path)
    given = dict(a=np.float32(1.5), b=torch.tensor([2.5], requires_grad=True).sum(), c=np.int64(3))
    details = dict(each=np.array([1.0, 2.0]))
    monkeypatch.setitem(MEASURES, 'own', lambda trained: dict(given, details=details))
    plan = plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), measures=['own'], primary=None)
    failed, said = execute(plan)
    assert not failed, said
    (record,) = plan.store.all()
    (found,) = record['measured'].values()
    assert found['figures'] == {'own/a': 1.5, 'own/b': 2.5, 'own/c': 3}
    assert found['details'] == dict(each=[1.0, 2.0])


@pytest.mark.parametrize(
    ('given', 'said'),
    (
        (None, 'a dict of numbers, but got None'),
        (dict(a=object), 'a dict of numbers, but got .*object'),
        (dict(a=np.ones(2)), r'a number as a, but got \[1.0, 1.0\]'),
        (dict(a='much'), "a number as a, but got 'much'"),
    ),
    ids=('nothing', 'object', 'array', 'words'),
)
def test_a_measure_that_gives_no_numbers_is_named(given, said):
    with pytest.raises(TypeError, match=f'measure own must give {said}'):
        plain_figures('own', given)


def test_the_curve_is_on_the_selection_images(tmp_path):
    write_project('mmpretrain', tmp_path)
    plan = plan_of(tmp_path, 'mmpretrain', arms=dict(stock={}), curve_interval=1)
    assert not execute(plan)[0]
    (record,) = plan.store.all()
    assert [each['iteration'] for each in record['training']['curve']] == [1, 2]
    spec = plan.spec('stock', 0)
    shown = spec.curve['loader']['dataset']['indices']
    assert not set(shown) & set(spec.evaluation['loader']['dataset']['indices'])


def test_the_command_survives_being_killed(tmp_path):
    """The real thing: processes of submitit's local executor, killed, started again."""
    write_project('mmpretrain', tmp_path)
    write_experiment(tmp_path, arms=dict(stock={}), common=SHORT, seeds=[0, 1])
    command = [sys.executable, str(TOOLS / 'experiment.py'), 'trial.py', '--jobs', '2']
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    options = dict(cwd=tmp_path, env=environment, text=True)
    first = subprocess.Popen(command, stderr=subprocess.PIPE, **options)
    started = tmp_path / 'work_dirs/experiments/trial/jobs'
    deadline = time.monotonic() + 300
    while not list(started.rglob('*_submitted.pkl')) and time.monotonic() < deadline:
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=300)
    assert first.returncode == 128 + signal.SIGTERM
    folder = tmp_path / 'work_dirs/experiments/trial/results'
    left = 2 - len(list(folder.glob('*.json')))  # one may have been done when the signal came
    assert left > 0
    second = subprocess.run(command, capture_output=True, timeout=600, **options)
    assert second.returncode == 0, second.stderr[-2000:]
    assert f'{left} of {left} runs' in second.stderr and ' left' in second.stderr
    results = sorted(folder.glob('*.json'))
    assert [json.loads(path.read_text())['seed'] for path in results] == [0, 1]
    assert '| stock |' in second.stdout


class Mask2FormerHead:  # told by its name: mmseg's needs mmdet and a decoder
    ignore_index = 7


@pytest.mark.parametrize('head', (SimpleNamespace(ignore_index=7), Mask2FormerHead()))
def test_calibration_is_told_of_the_decode_head(head):
    """What it ignores, and whether its scores are logits."""
    runner = SimpleNamespace(model=SimpleNamespace(decode_head=head))
    trained = Trained(runner, Config({}), {}, {}, dict(type='IoUMetric'), ['stock', 'nll'])
    asked = []
    trained.evaluate = lambda evaluator: asked.extend(evaluator) or dict(mIoU=1.0)
    assert trained.clean() == dict(mIoU=1.0)
    (_, added) = asked
    of_masks = isinstance(head, Mask2FormerHead)
    assert added == dict(
        type='CalibrationMetric', prefix='measured', ignore_index=7, of_masks=of_masks
    )


def test_a_config_may_have_a_calibration_metric_of_its_own(tmp_path):
    """The figures are the measure's, which has bins of its own."""
    write_project('mmpretrain', tmp_path)
    own = [dict(type='Accuracy'), dict(type='CalibrationMetric', num_bins=1)]
    plain = {'custom_imports': dict(imports=['afan_mm'])}
    values = []
    for stock in (plain, dict(plain, test_evaluator=own, val_evaluator=own)):
        measures = ['stock', 'calibration', 'nll']
        plan = plan_of(tmp_path, 'mmpretrain', arms=dict(stock=stock), measures=measures)
        failed, said = execute(plan)
        assert not failed, said
        metrics = collect(plan, ['stock'], [0])['metrics']
        values.append({name: metric['values']['stock'][0] for name, metric in metrics.items()})
    assert set(values[0]) == {'accuracy/top1', 'calibration/ece', 'nll'}
    assert values[1] == pytest.approx(values[0], rel=1e-6)
