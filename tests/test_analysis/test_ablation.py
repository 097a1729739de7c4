"""Ablation figures from a report, and the experiments whose reports they are drawn from."""

import numpy as np
import pytest

from afan_mm.analysis.ablation import Point, draw_ablation, find_panels
from afan_mm.experiments import Plan, Store, read_experiment
from support.paths import CONFIGS

CAMVID = CONFIGS / 'experiments' / 'ablation_camvid.py'
BCCD = CONFIGS / 'experiments' / 'ablation_bccd.py'


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
        steps=[Point('1', [51.0, 53.0]), Point('3', [54.0])], afan=[Point('3', [1.0])]
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


@pytest.mark.parametrize('path', (CAMVID, BCCD), ids=lambda path: path.stem)
def test_experiments(path, tmp_path):
    """Four panels; every arm is a config of its own, with the sites and settings of its name."""
    experiment = read_experiment(str(path))
    plan = Plan(experiment, Store(tmp_path))
    panels = {name.partition('-')[0] for name in experiment.arms}
    assert panels == {'stock', 'steps', 'strengths', 'location', 'step_size'}
    last = 'backbone.layer3' if path == CAMVID else 'backbone.layer4'
    for name in experiment.arms:
        cfg = plan.arms.config(name)
        if name == 'stock':
            assert cfg.optim_wrapper.type == 'OptimWrapper'
            continue
        panel, _, setting = name.partition('-')
        sites = cfg.model.neck.afan
        assert cfg.optim_wrapper.type == 'AFANOptimWrapper'
        if panel == 'location':
            stages = [site.site[-1] for site in sites]
            assert stages == [part[1] for part in setting.split('+')]
        else:
            assert [site.site for site in sites] == [last]
        if panel in ('steps', 'strengths'):
            key = dict(steps='num_steps', strengths='num_strengths')[panel]
            assert sites[0][key] == int(setting)
        if panel == 'step_size':
            assert sites[0].epsilon == float(setting) / 255
