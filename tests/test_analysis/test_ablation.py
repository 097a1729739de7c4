"""Ablation figures from a report, and the experiments whose reports they are drawn from."""

import numpy as np
import pytest

from afan_mm.analysis.ablation import Point, best_of, draw_ablation, find_panels
from afan_mm.experiments import Plan, Store, read_experiment
from support.paths import CONFIGS

CAMVID = CONFIGS / 'experiments' / 'ablation_camvid.py'
BCCD = CONFIGS / 'experiments' / 'ablation_bccd.py'
CIFAR = CONFIGS / 'experiments' / 'ablation_cifar10-500.py'
LAST = {
    CAMVID: {'B4': 'backbone.timm_model.blocks.6'},
    BCCD: {'B4': 'backbone.layer4'},
    CIFAR: dict(S6='backbone.timm_model.blocks.5', S7='backbone.timm_model.blocks.6', V='output'),
}


def report(**values):
    arms = {name.replace('_', '-', 1): by_seed for name, by_seed in values.items()}
    about = dict(reference=None, of=None, parent=None)
    return dict(
        experiment='ablation',
        half='report',
        seeds=[0, 1],
        primary='mIoU',
        arms={n: dict(about, reference='stock' if n == 'stock' else None) for n in arms},
        metrics=dict(mIoU=dict(values=arms, larger_is_better=True)),
    )


def test_panels():
    """By the part of a name before the first hyphen; a grid's key is left out; references and arms
    without a run are no points.
    """
    results = report(
        stock={'0': 50.0, '1': 52.0},
        steps_1={'0': 51.0, '1': 53.0},
        steps_3={'0': 54.0},
        steps_5={},
        **{'afan_num_steps=3': {'0': 1.0}},
    )
    results['arms']['control-late'] = dict(reference='control')
    results['metrics']['mIoU']['values']['control-late'] = {'0': 1.0}
    assert find_panels(results) == dict(
        steps=[Point('1', {'0': 51.0, '1': 53.0}), Point('3', {'0': 54.0})],
        afan=[Point('3', {'0': 1.0})],
    )
    with pytest.raises(ValueError, match="metric must be among mIoU, but got 'mAP'"):
        find_panels(results, 'mAP')
    with pytest.raises(ValueError, match="arms must be named '<panel>-<setting>'"):
        find_panels(report(stock={'0': 1.0}))


def test_picture_marks_the_best():
    """The largest mean is red, or the smallest where that is better; stock is optional."""
    results = report(
        stock={'0': 50.0, '1': 52.0}, steps_1={'0': 51.0}, steps_3={'0': 54.0}, location_B1={'0': 1}
    )
    picture = draw_ablation(results)
    results['metrics']['mIoU']['larger_is_better'] = False
    other = draw_ablation(results)
    red = [(p == np.array([0xD5, 0x5E, 0x00])).all(2) for p in (picture, other)]
    assert red[0].any() and red[1].any()
    rows = [np.nonzero(r[:, : r.shape[1] // 2])[0].mean() for r in red]
    assert rows[0] < rows[1]  # higher in the picture
    results['metrics']['mIoU']['values'].pop('stock')
    assert (draw_ablation(results) != other).any()


@pytest.mark.parametrize(
    ('values', 'larger', 'best'),
    (
        ([{'0': 41.0}, {'0': 40.0, '1': 50.0}], True, 0),
        ([{'0': 41.0}, {'0': 40.0, '1': 50.0}], False, 1),
        ([{'0': 41.0, '1': 43.0}, {'0': 42.0, '1': 43.0}], True, 1),
        ([{'0': 41.0}, {'1': 50.0}], True, None),
    ),
    ids=('a run is missing', 'smaller is better', 'whole', 'no seed in common'),
)
def test_the_best_is_that_of_the_seeds_that_all_have(values, larger, best):
    points = [Point(str(place), each) for place, each in enumerate(values)]
    assert best_of(points, larger) == best
    named = {f'steps_{place}': each for place, each in enumerate(values)}
    picture = draw_ablation(report(**named))
    red = (picture == np.array([0xD5, 0x5E, 0x00])).all(2)
    assert red.any() == (best is not None)


@pytest.mark.parametrize('path', (CAMVID, BCCD, CIFAR), ids=lambda path: path.stem)
def test_experiments(path, tmp_path):
    """Four panels; every arm is a config of its own, with the sites and settings of its name."""
    experiment = read_experiment(str(path))
    plan = Plan(experiment, Store(tmp_path))
    size = 'length' if path == CIFAR else 'step_size'
    panels = {name.partition('-')[0] for name in experiment.arms}
    assert panels == {'stock', 'steps', 'strengths', 'location', size}
    for name in experiment.arms:
        cfg = plan.arms.config(name)
        if name == 'stock':
            assert cfg.optim_wrapper.get('type', 'OptimWrapper') == 'OptimWrapper'
            continue
        panel, _, setting = name.partition('-')
        sites = [site for site in cfg.model.neck.afan if site.num_strengths]
        assert cfg.optim_wrapper.type == 'AFANOptimWrapper'
        if panel == 'location':
            assert len(sites) == len(setting.split('+'))
            known = LAST[path]
            assert all(s.site == known[w] for s, w in zip(sites, setting.split('+')) if w in known)
        else:
            assert [site.site for site in sites] == list(LAST[path].values())
        if panel in ('steps', 'strengths'):
            key = dict(steps='num_steps', strengths='num_strengths')[panel]
            assert {site.get(key, 1) for site in sites} == {int(setting)}
        if path == CIFAR:  # the passes of several strengths share the weight
            assert {site.adv_weight * site.num_strengths for site in sites} == {0.5}
        if panel == 'step_size':
            assert sites[0].epsilon == float(setting) / 255
        if panel == 'length':
            assert {site.epsilon for site in sites} == {float(setting)}
