"""The comparisons, the table and the picture, from figures that are given."""

import json
import math

import cv2
import pytest

from afan_mm.experiments.arm_specs import ArmSpec
from afan_mm.experiments.config import Experiment
from afan_mm.experiments.measures import larger_is_better
from afan_mm.experiments.report import markdown, write_report
from afan_mm.experiments.results import collect, full_name
from afan_mm.experiments.run import RunSpec

SEEDS = [0, 1, 2, 3, 4]
VALUES = dict(
    stock=[40.0, 42.0, 41.0, 43.0, 44.0],
    afan=[42.1, 44.0, 42.9, 45.1, 46.0],
    late=[40.5, 41.5, 41.5, 42.5, 44.5],
    control=[40.2, 42.1, 40.9, 43.2, 43.9],
    longer=[41.0, 42.9, 42.1, 44.0, 44.9],
)


class GivenPlan:
    """A plan whose runs have these figures."""

    half = 'report'

    def __init__(self, values, starts=None, same=None, resumed=(), notes=None):
        """``same``: by arm the one whose run it is; ``resumed``: arms and seeds; ``notes``: of the
        training, by arm.
        """
        self.values, self.starts, self.same = values, starts or {}, same or {}
        self.resumed, self.notes = resumed, notes or {}
        arms = {name: ArmSpec(name) for name in values}
        for name, of in (('stock', None), ('control', 'afan'), ('longer', None)):
            if name in arms:
                arms[name] = ArmSpec(name, reference=name, of=of)
        self.experiment = Experiment(
            name='trial',
            base=None,
            common={},
            arms=arms,
            seeds=SEEDS,
            measures=[dict(type='stock')],
            primary='mIoU',
            larger_is_better=True,
            references=['stock', 'control', 'longer'],
            metrics=None,
            selection=dict(split='half', seed=0),
            curve_interval=None,
            keep_checkpoints=False,
        )

    def waits(self, arm):
        return False

    def images(self, arm):
        return 'the report half of the validation set'

    def factor(self, arm):
        return 2.0 if arm == 'longer' else None

    def spec(self, arm, seed):
        key = f'{self.same.get(arm, arm)}-{seed}'
        return RunSpec('', key, 'trial', arm, seed, {}, {}, dict(all={}), {})

    def record(self, spec):
        value = self.values[spec.arm][spec.seed]
        if value is None:
            return None
        figures = {'seg/mIoU': value, 'nll/nll': 1 - value / 100, 'cost/seconds': 1.0}
        figures = {k: None if math.isnan(v) else v for k, v in figures.items()}  # as json has it
        training = dict(
            initial_weights=self.starts.get((spec.arm, spec.seed), spec.seed),
            first_batches=spec.seed,
            seconds=20.0,
            cpu_seconds=2.0 if spec.arm == 'afan' else 1.0,
            memory=100.0 + spec.seed,
            device='cpu',
            workers=0,
            resumed=(spec.arm, spec.seed) in self.resumed,
        )
        training.update(self.notes.get(spec.arm, {}))
        return dict(measured=dict(all=dict(figures=figures)), training=training)


def comparisons(results, metric='seg/mIoU'):
    found = results['metrics'][metric]['comparisons']
    return {(each['arm'], each['reference']): each for each in found}


@pytest.fixture
def results():
    return collect(GivenPlan(VALUES), list(VALUES), SEEDS)


def test_each_arm_is_compared_with_its_references(results):
    found = comparisons(results)
    assert set(found) == {
        ('afan', 'stock'),
        ('late', 'stock'),
        ('afan', 'control'),  # late has no control of its own
        ('afan', 'longer'),
        ('late', 'longer'),
        ('control', 'stock'),
        ('longer', 'stock'),
    }
    afan = found['afan', 'stock']
    assert afan['mean'] == pytest.approx(2.02)
    assert afan['verdict'] == 'better'
    assert found['late', 'stock']['verdict'] == 'not shown'
    # Holm over the two arms, not over the references
    assert afan['p_holm'] == pytest.approx(2 * afan['p_t'])
    assert found['longer', 'stock']['p_holm'] < 0.05


def test_a_metric_that_is_better_when_smaller(results):
    assert results['primary'] == 'seg/mIoU'
    assert list(results['metrics']) == ['seg/mIoU', 'nll/nll']  # cost has its own columns
    found = comparisons(results, 'nll/nll')['afan', 'stock']
    assert found['mean'] < 0 and found['verdict'] == 'better'


@pytest.mark.parametrize(
    'given, verdict', ((None, 'better'), (False, 'better'), (True, 'worse')), ids=str
)
def test_which_way_the_primary_metric_is_better(given, verdict):
    """By its name, as that of the others, unless the experiment says so."""
    plan = GivenPlan(VALUES)
    plan.experiment.primary, plan.experiment.larger_is_better = 'nll', given
    found = collect(plan, list(VALUES), SEEDS)
    assert found['primary'] == 'nll/nll'
    assert comparisons(found, 'nll/nll')['afan', 'stock']['verdict'] == verdict


def test_cost_is_relative_to_stock_and_paired_by_seed(results):
    assert results['cost']['afan'] == pytest.approx(dict(time=2.0, memory=1.0))
    assert results['unpaired'] == [] and results['missing'] == []


def test_what_is_missing_or_not_paired_is_said():
    values = dict(VALUES, afan=[42.1, 44.0, 42.9, 45.1, None])
    plan = GivenPlan(values, starts={('late', 1): 'other'})
    found = collect(plan, list(values), SEEDS)
    assert found['missing'] == ['afan seed 4']
    said = 'seed 1: initial weights differ: stock, afan, control, longer | late'
    assert found['unpaired'] == [said]
    text = markdown(found)
    assert 'Seeds 0, 1, 2, 3, 4; measured on the report half of the validation set.' in text
    assert '**Missing runs:** afan seed 4.' in text and said in text
    assert comparisons(found)['afan', 'stock']['verdict'] == 'not shown'  # four seeds


def test_arms_of_one_run_count_once_in_a_family(results):
    values = dict(VALUES, twin=VALUES['afan'], base=VALUES['stock'])
    plan = GivenPlan(values, same=dict(twin='afan', base='stock'))
    found = collect(plan, list(values), SEEDS)
    before, after = comparisons(results), comparisons(found)
    # not base with stock, which is its run; control is afan's
    new = {('twin', 'stock'), ('twin', 'longer'), ('base', 'longer')}
    assert set(after) == {*before, *new}
    for arm in ('afan', 'twin'):  # Holm over two arms still
        assert dict(after[arm, 'stock'], arm='afan') == before['afan', 'stock']
    assert after['late', 'stock'] == before['late', 'stock']
    assert found['one_run'] == [['stock', 'base'], ['afan', 'twin']]
    assert 'One run: stock, base; afan, twin.' in markdown(found)
    assert results['one_run'] == [] and 'One run' not in markdown(results)
    plan.values = dict(values, afan=[None] * 5, twin=[None] * 5)
    assert collect(plan, ['twin', 'afan'], [3])['missing'] == ['twin seed 3']


def test_runs_that_were_interrupted_say_nothing_of_cost():
    given = [('afan', seed) for seed in SEEDS] + [('late', 1)]
    found = collect(GivenPlan(VALUES, resumed=given), list(VALUES), SEEDS)
    assert 'afan' not in found['cost'] and found['cost']['late']['time'] == 1.0
    text = markdown(found)
    names = ', '.join(f'{arm} seed {seed}' for arm, seed in given)
    assert f'which these were: {names}. Where a model draws' in text
    assert 'as by a seed. Without any beside one of stock: afan.' in text
    (row,) = [line for line in text.splitlines() if line.startswith('| afan |') and '44.02' in line]
    assert row.endswith('| – | – |')


@pytest.mark.parametrize(
    ('other', 'what'),
    (
        (dict(threads=1), 'threads'),
        (dict(threads=2, device='cuda'), 'devices'),
        (dict(threads=2, workers=2), 'clocks'),
    ),
    ids=('threads', 'device', 'workers'),
)
def test_runs_that_were_timed_otherwise_say_nothing_of_cost(other, what):
    """As those of --jobs 1 and --jobs 2, which share out the cores (of older ones it is not known),
    or of workers that load data, whose seconds are those of the wall.
    """
    notes = dict(stock=dict(threads=2), afan=other, control=dict(threads=2))
    found = collect(GivenPlan(VALUES, notes=notes), list(VALUES), SEEDS)
    assert set(found['cost']) == {'stock', 'control', 'late', 'longer'}
    alike = 'stock, control' if what == 'threads' else 'stock, late, control, longer'
    said = '; '.join(f'seed {seed}: {what} differ: {alike} | afan' for seed in SEEDS)
    assert f'**Not run alike:** {said}. Such times' in markdown(found)
    assert 'Not run alike' not in markdown(collect(GivenPlan(VALUES), list(VALUES), SEEDS))


def test_runs_that_were_not_run_alike_are_said_without_stock_too():
    arms = ['afan', 'control']
    notes = dict(afan=dict(threads=2), control=dict(threads=1))
    found = collect(GivenPlan(VALUES, notes=notes), arms, [0, 1])
    said = [f'seed {seed}: threads differ: afan | control' for seed in (0, 1)]
    assert found['timed_otherwise'] == said


def test_a_figure_that_is_not_finite_is_said():
    values = dict(VALUES, late=[40.5, math.nan, 41.5, 42.5, 44.5])
    found = collect(GivenPlan(values), list(values), SEEDS)
    assert found['not_finite'] == ['late seed 1 seg/mIoU', 'late seed 1 nll/nll']
    assert '**Not finite:** late seed 1 seg/mIoU, late seed 1 nll/nll.' in markdown(found)
    assert found['missing'] == [] and comparisons(found)['late', 'stock']['seeds'] == [0, 2, 3, 4]


def test_a_curve_without_the_primary_metric_is_not_drawn(results, tmp_path):
    point = dict(iteration=10, aAcc=3.0)
    results['training']['afan'][0]['curve'] = [point]
    write_report(results, tmp_path)
    assert not (tmp_path / 'report_curve.png').exists()
    results['training']['late'][0]['curve'] = [{**point, 'seg/mIoU': 2.0}]
    results['training']['late'][1]['curve'] = [{**point, 'seg/mIoU': None}]  # was not finite
    write_report(results, tmp_path)
    assert (tmp_path / 'report_curve.png').exists()


def test_errors_of_depth_and_miss_rates_are_better_the_smaller_they_are():
    errors = ('abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'log10', 'silog', 'crowd_human/mMR')
    assert not any(larger_is_better(f'robust/{name}') for name in errors)
    assert all(larger_is_better(name) for name in ('d1', 'crowd_human/mAP'))


def test_a_class_is_no_error_by_its_name():
    assert larger_is_better('per_class/chess piece') and not larger_is_better('calibration/ece')


def test_the_report_is_a_table_a_json_and_a_picture(results, tmp_path):
    text = write_report(results, tmp_path)
    assert (tmp_path / 'report.md').read_text() == text
    rows = [line.split(' | ') for line in text.splitlines()]
    (afan,) = [row for row in rows if row[0] == '| afan' and '44.02' in row]
    assert afan[1:4] == ['44.02', '1.583', '42.05 … 45.99']  # by hand: 2.776 * 1.583 / sqrt(5)
    assert afan[-2:] == ['2.00×', '1.00× |']
    assert any(row[0] == '| longer (× 2)' for row in rows)
    (against,) = [row for row in rows if row[0] == '| afan − stock' and '+2.02' in row]
    assert against[-1] == '**better** |'
    assert json.loads((tmp_path / 'report.json').read_text())['primary'] == 'seg/mIoU'
    picture = cv2.imread(str(tmp_path / 'report.png'))
    assert picture.shape[1] > picture.shape[0] > 300 and len(set(picture.ravel())) > 50
    assert not (tmp_path / 'report_curve.png').exists()


@pytest.mark.parametrize('key', ('primary', 'metrics'))
def test_the_key_that_names_an_unknown_metric_is_said(key):
    plan = GivenPlan(VALUES)
    setattr(plan.experiment, key, 'mIuO' if key == 'primary' else ['mIuO'])
    said = f"^{key} must be among seg/mIoU, nll/nll, cost/seconds, but got 'mIuO'"
    with pytest.raises(ValueError, match=said):
        collect(plan, list(VALUES), SEEDS)


def test_nothing_stored_yet():
    found = collect(GivenPlan(dict(stock=[None] * 5)), ['stock'], SEEDS)
    assert 'No run is stored yet.' in markdown(found)


def test_metrics_by_their_endings():
    names = ['coco/bbox_mAP', 'robust/coco/bbox_mAP', 'bbox']
    assert full_name('bbox_mAP', names) == 'coco/bbox_mAP'
    with pytest.raises(ValueError, match="metrics must be among .*, but got 'mAP'"):
        full_name('mAP', names)
