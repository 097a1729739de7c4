"""What a run logged, in words and in a picture: verdicts on figures by hand, joined logs, real runs, bad input."""
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image
from runs import afan_model, train

TOOLS = Path(__file__).resolve().parent.parent / 'tools' / 'analysis_tools'
sys.path.insert(0, str(TOOLS))
tool, report = map(importlib.import_module, ('plot_health', 'health_report'))  # the tool finds command_line.py
sys.path.remove(str(TOOLS))


def reports(gains, clean=1.0, **figures):
    """A report every 10 iterations; ``gains`` are absolute."""
    clean = clean if isinstance(clean, list) else [clean] * len(gains)
    return [dict(dict(gain=g, objective=c + g, clean=c, relative_gain=g / c, delta_norm=1.0, zero_share=0.0, mix_ratio=0.5,
                      nonfinite_share=0.0, iter=10 * (i + 1)), **figures) for i, (g, c) in enumerate(zip(gains, clean))]


@pytest.mark.parametrize('given, verdict, reason', (
    (reports([0.005] * 4), report.WEAK, 'below 1% of the clean loss'),
    (reports([0.005] * 4, mix_ratio=0.05), report.WEAK, 'leaves 5% of the perturbation'),
    (reports([0.005] * 4, zero_share=0.7), report.WEAK, '70% of the elements are not moved'),
    (reports([0.0] * 4, delta_norm=0.0), report.WEAK, 'the perturbation is zero'),
    (reports([0.1] * 4), report.FINE, 'between 1% and 100%'),
    (reports([9.0, 9.0, 0.1, 0.1]), report.FINE, 'between 1% and 100%'),  # the earlier half says little
    (reports([1.5] * 4), report.STRONG, 'at least 100% of the clean loss'),
    (reports([0.1] * 4, nonfinite_share=0.2), report.STRONG, 'up to 20% of the directions were not finite'),
    (reports([0.1, 0.1, 0.3, 0.4, 0.8, 0.8], clean=[1.0, 1.0, 0.9, 0.9, 0.8, 0.8]), report.STRONG, 'rose by 45% while the clean loss fell by 20%'),
    (reports([0.1, 0.1, 0.1, -0.1, 0.1, -0.2, -0.1, 0.1]), report.UNCLEAR, '50% of the gains are negative'),
), ids=('weak', 'mix', 'zero', 'nothing', 'fine', 'early', 'strong', 'nonfinite', 'diverging', 'unclear'))
def test_verdict(given, verdict, reason):
    found = report.judge(given)
    assert found['verdict'] == verdict and any(reason in each for each in found['reasons']), found
    assert bool(found['advice']) == (verdict != report.FINE)


def test_advice_on_epsilon_by_hand():
    """A gain of 0.5 % is to become one of 5 %."""
    assert 'epsilon 10 times as large' in report.judge(reports([0.005] * 4))['advice'][0]
    assert 'epsilon more than 1000 times as large' in report.judge(reports([1e-6] * 4))['advice'][0]


def write_log(folder, lines, name='20260101_000000'):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(line if isinstance(line, str) else json.dumps(line) + '\n' for line in lines))


def line(step, gain, loss=2.0):
    return {'loss': loss, 'step': step, **{f'afan/neck/{k}': v for k, v in dict(
        gain=gain, objective=1 + gain, delta_norm=1.0, zero_share=0.0, mix_ratio=0.5, nonfinite_share=0.0).items()}}


def test_resumed_run_is_joined_and_a_cut_line_left_out(tmp_path):
    write_log(tmp_path, [line(10, 0.1), line(20, 0.2), line(30, 0.3), {'mIoU': 30.0, 'step': 30}], '20260101_000000')
    write_log(tmp_path, [line(20, 0.4), line(30, 0.5), '{"loss": 1.2, "st'], '20260102_000000')
    found = report.read_run(tmp_path)
    assert [(r['iter'], r['gain']) for r in found['sites']['neck']] == [(10, 0.1), (20, 0.4), (30, 0.5)]
    assert all(r['clean'] == pytest.approx(1) and r['relative_gain'] == pytest.approx(r['gain']) for r in found['sites']['neck'])
    assert list(found['loss']) == [10, 20, 30]


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['plot_health.py', *map(str, arguments)])
    tool.main()


def test_real_runs(tmp_path, monkeypatch, capsys):
    """A perturbation of nothing, and one that drowns the feature, under a real Runner."""
    for name, epsilon in (('weak', 1e-6), ('strong', 1000.0)):
        train(afan_model(neck=None, head=dict(epsilon=epsilon, num_strengths=2, moments=None)), tmp_path / name, max_iters=4)
    run_tool(monkeypatch, tmp_path / 'weak', tmp_path / 'strong', '--out', tmp_path / 'both.png', '--json', tmp_path / 'both.json')
    printed = capsys.readouterr().out
    assert 'decode_head: TOO WEAK TO MATTER' in printed and 'decode_head: STRONG ENOUGH TO HURT' in printed
    verdicts = [run['verdicts']['decode_head'] for run in json.loads((tmp_path / 'both.json').read_text()).values()]
    assert [v['verdict'] for v in verdicts] == [report.WEAK, report.STRONG] and verdicts[0]['medians']['mix_ratio'] == pytest.approx(1, rel=0.05)
    with Image.open(tmp_path / 'both.png') as image:
        assert image.size[0] > 1000 and len(image.convert('RGB').getcolors(1 << 24)) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ['both.json', 'both.png', 'strong', 'weak']


def test_stock_run(tmp_path, monkeypatch):
    write_log(tmp_path, [{'loss': 2.0, 'step': 10}])
    with pytest.raises(tool.UsageError, match='no A-FAN figures in .*: a stock run'):
        run_tool(monkeypatch, tmp_path)


@pytest.mark.parametrize('arguments, message', (
    (['gone'], 'WORK_DIR must be a work folder or a scalars.json, but got gone'),
    (['empty'], 'no scalars.json in empty'),
    (['broken'], 'line 1 of .* is no record of scalars'),
    (['good', '--sites', 'head'], '--sites must be some of neck in good, but got head'),
    (['good', '--out', 'health.pdf'], '--out must end in .png, but got health.pdf'),
    (['good', '--out', 'gone/health.png'], '--out must be a file in a folder that can be written, but got gone'),
    (['good', '--json', 'empty'], '--json must be a file in a folder that can be written, but got empty'),
), ids=('gone', 'empty', 'broken', 'sites', 'suffix', 'folder', 'json'))
def test_bad_input(tmp_path, monkeypatch, arguments, message):
    (tmp_path / 'empty').mkdir()
    write_log(tmp_path / 'good', [line(10, 0.1)])
    write_log(tmp_path / 'broken', ['no json\n', line(10, 0.1)])
    monkeypatch.chdir(tmp_path)
    before = sorted(map(str, tmp_path.rglob('*')))
    with pytest.raises(tool.UsageError, match=re.compile(message)):
        run_tool(monkeypatch, *arguments)
    assert sorted(map(str, tmp_path.rglob('*'))) == before
