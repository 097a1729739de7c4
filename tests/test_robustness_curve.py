"""The curve of robust figures over the strength: its numbers, one real sweep that is started twice, and bad input."""
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from robust_runs import config, make_data
from test_digits_voc import digits_voc
from tiny import build

TOOLS = Path(__file__).resolve().parent.parent / 'tools' / 'analysis_tools'
sys.path.insert(0, str(TOOLS))
report, tool = map(importlib.import_module, ('curve_report', 'robustness_curve'))
sys.path.remove(str(TOOLS))


def entry(label, epsilon, clean, robust):
    return dict(label=label, epsilon=epsilon, clean=dict(mIoU=clean, aAcc=90), robust=dict(mIoU=robust, aAcc=80), num_images=7)


def test_mean_and_spread_by_hand(tmp_path):
    entries = [entry('stock', 0, 30, 30), entry('stock', 0, 34, 34), entry('afan', 0, 31, 31),
               entry('stock', 4, 30, 10), entry('stock', 4, 34, 16), entry('afan', 4, 31, 12)]
    metric, curves = report.figures(entries)
    assert metric == 'mIoU' and curves['stock']['clean'] == [30, 34] and curves['stock']['robust'][4] == [10, 16]
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in report.table(metric, curves, 'pgd', 7).splitlines()[2:]]
    assert lines[0] == ['', 'seeds', 'clean', '0/255', '4/255']
    assert lines[2] == ['stock', '2', '32 ± 2.8', '32 ± 2.8', '13 ± 4.2']  # half the difference times the root of two
    assert lines[3] == ['afan', '1', '31', '31', '12']
    report.plot(metric, curves, 'pgd', tmp_path / 'new' / 'curve.png')
    with Image.open(tmp_path / 'new' / 'curve.png') as image:
        assert image.size[0] > 400
    assert report.figures(entries, 'aAcc')[0] == 'aAcc'
    with pytest.raises(KeyError, match='aAcc'):
        report.figures(entries, 'mDice')


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('curve')
    cfg = config('mmseg', make_data(digits_voc, folder / 'digits'), folder / 'unused')
    for key in ('work_dir', 'experiment_name', 'test_cfg'):
        cfg.pop(key)
    cfg.dump(str(folder / 'tiny.py'))
    torch.save(dict(state_dict=build(cfg.model).state_dict()), str(folder / 'weights.pth'))
    return folder


def curve(folder, *arguments):
    environment = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    process = subprocess.run([sys.executable, '-W', 'ignore', str(TOOLS / 'robustness_curve.py'), *arguments], cwd=str(folder),
                             env=environment, capture_output=True, text=True, timeout=300)
    return process.returncode, process.stdout, process.stderr


def test_sweep_and_its_second_run(project):
    command = ['tiny.py', 'weights.pth', '--epsilons', '0', '16', '--num-images', '2', '--work-dir', 'work', '--json', 'all/curve.json']
    code, printed, error = curve(project, *command, '--plot', 'curve.png')
    assert code == 0, error
    entries = {each['epsilon']: each for each in json.loads((project / 'all' / 'curve.json').read_text())}
    assert sorted(entries) == [0, 16] and entries[0]['robust'] == entries[0]['clean'] and entries[0]['num_images'] == 2
    protocol = entries[16]['protocol']
    assert (protocol['epsilon'], protocol['step_size'], protocol['num_steps']) == pytest.approx((16 / 255, 2 / 255, 10))
    assert entries[16]['robust'] != entries[16]['clean'] == entries[0]['clean']
    assert '| tiny | 1' in printed and (project / 'curve.png').stat().st_size > 1000
    # Nothing is evaluated again: the folders of the evaluations may be gone.
    for path in (project / 'work').iterdir():
        path.rename(project / f'away_{path.name}')
    code, again, error = curve(project, *command)
    assert code == 0 and again == printed and not (project / 'work').is_dir() or not list((project / 'work').iterdir()), error


@pytest.mark.parametrize('arguments, message', (
    (['tiny.py'], 'every CONFIG needs a CHECKPOINT, but got 1 paths'),
    (['tiny.py', 'gone.pth'], 'CONFIG and CHECKPOINT must be files, but got gone.pth'),
    (['tiny.py', 'weights.pth', '--labels', 'a', 'b'], '--labels must be one for each of the 1 checkpoints, but got 2'),
    (['tiny.py', 'weights.pth', '--json', 'tiny.py'], '--json must be a file of this tool, or none, but got tiny.py'),
), ids=('odd', 'gone', 'labels', 'json'))
def test_bad_input(project, monkeypatch, arguments, message):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, 'argv', ['robustness_curve.py', *arguments])
    with pytest.raises(tool.UsageError, match=re.escape(message)):
        tool.main()


@pytest.mark.parametrize('given', ('300', '-1', 'nan', 'two'))
def test_bad_radius(given, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['a.py', 'a.pth', f'--epsilons={given}'])
    assert f'must be a number in [0, 255], in 1/255, but got {given!r}' in capsys.readouterr().err


def test_failed_evaluation_names_its_log(project):
    """The last line that it printed is the reason; the sweep leaves what was finished."""
    code, _, error = curve(project, 'tiny.py', 'weights.pth', '--epsilons', '1', '--work-dir', 'failed', '--cfg-options',
                           'test_dataloader.dataset.data_root=gone/')
    assert code != 0 and 'tiny.py with weights.pth could not be evaluated: ' in error and 'log.txt' in error
    assert 'Traceback' not in error and not (project / 'failed' / 'curve.json').exists()
