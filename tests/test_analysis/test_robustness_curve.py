"""The curve of robust figures over the strength: its numbers, one real sweep that is started twice,
and bad input.
"""

import json
import os
import re
import subprocess
import sys
from io import BytesIO

import pytest
import torch
from mmengine.runner import CheckpointLoader
from PIL import Image

from afan_mm.analysis import robustness_curve as report
from afan_mm.analysis import robustness_sweep
from afan_mm.utils.errors import UsageError
from support.digits import digits_voc
from support.fast_python import python
from support.paths import TOOLS
from support.robust_runs import IMAGES, config, make_data
from support.tiny import build
from support.tools import load_tool

tool = load_tool('analysis_tools/robustness_curve')


def entry(label, epsilon, clean, robust):
    protocol = dict(attack='segpgd', num_steps=7, step_size=epsilon / 2040, epsilon=epsilon / 255)
    return dict(
        label=label,
        protocol=protocol,
        epsilon=epsilon,
        num_images=7,
        clean=dict(mIoU=clean, aAcc=90),
        robust=dict(mIoU=robust, aAcc=80),
    )


def test_autoattack_has_no_steps_to_be_said():
    entries = [entry('stock', epsilon, 30, 10) for epsilon in (0, 4)]
    for each in entries:
        each['protocol']['attack'] = 'autoattack'
    said = 'mIoU on 7 images; AutoAttack, standard, on the pixels'
    assert report.caption('mIoU', entries) == said


def test_mean_and_spread_by_hand():
    entries = [
        entry('stock', 0, 30, 30),
        entry('stock', 0, 34, 34),
        entry('afan', 0, 31, 31),
        entry('stock', 4, 30, 10),
        entry('stock', 4, 34, 16),
        entry('afan', 4, 31, 12),
    ]
    metric, curves = report.figures(entries)
    assert (
        metric == 'mIoU'
        and curves['stock']['clean'] == [30, 34]
        and curves['stock']['robust'][4] == [10, 16]
    )
    about = report.caption(metric, entries)
    assert (
        about == 'mIoU on 7 images; SEGPGD-7 on the pixels, step 0.125 x epsilon (the ratio of the '
        "paper's protocol)"
    )
    table = report.table(about, curves)
    assert table.splitlines()[0] == about + '; mean ± standard deviation of the seeds'
    lines = [
        [cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()[2:]
    ]
    assert lines[0] == ['', 'seeds', 'clean', '0/255', '4/255']
    # half the difference times the root of two
    assert lines[2] == ['stock', '2', '32 ± 2.8', '32 ± 2.8', '13 ± 4.2']
    assert lines[3] == ['afan', '1', '31', '31', '12']
    with Image.open(BytesIO(report.plot(metric, about, curves, 'png'))) as image:
        assert image.size[0] > 400
        drawn = {colour for _, colour in image.convert('RGB').getcolors(1 << 20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= drawn
    assert report.figures(entries, 'aAcc')[0] == 'aAcc'
    with pytest.raises(UsageError, match='--metric must be one of aAcc, mIoU, but got mDice'):
        report.figures(entries, 'mDice')


def test_a_figure_that_is_not_finite():
    """None in the file: a dash in the table where no seed has it, the mean of the others else."""
    entries = [
        entry('stock', 0, None, None),
        entry('stock', 0, 34, 34),
        entry('afan', 0, 31, 31),
        entry('stock', 4, None, None),
        entry('stock', 4, 34, 16),
        entry('afan', 4, 31, None),
    ]
    metric, curves = report.figures(entries)
    rows = [line.split('|')[1:-1] for line in report.table('', curves).splitlines()[4:]]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0] == ['stock', '2', '34 (1 of 2)', '34 (1 of 2)', '16 (1 of 2)']
    assert cells[1] == ['afan', '1', '31', '31', '-']
    assert report.spread([float('nan'), 30, 34]) == '32 ± 2.8 (2 of 3)'
    assert len(report.plot(metric, '', curves, 'png')) > 1000
    nothing = report.figures([entry('stock', 4, None, None)])
    assert len(report.plot(nothing[0], '', nothing[1], 'png')) > 1000


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('curve')
    cfg = config('mmseg', make_data(digits_voc, folder / 'digits'), folder / 'unused')
    for key in ('work_dir', 'experiment_name', 'test_cfg'):
        cfg.pop(key)
    cfg.dump(str(folder / 'tiny.py'))
    torch.save(dict(state_dict=build(cfg.model).state_dict()), str(folder / 'weights.pth'))
    (folder / 'detector.py').write_text("_base_ = './tiny.py'\ndefault_scope = 'mmdet'\n")
    evaluator = "test_evaluator = dict(_delete_=True, type='Coco', ann_file='all.json')"
    (folder / 'coco.py').write_text(f"_base_ = './tiny.py'\n{evaluator}\n")
    return folder


def curve(folder, *arguments):
    environment = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    process = subprocess.run(
        [
            python(),
            '-W',
            'ignore',
            str(TOOLS / 'analysis_tools' / 'robustness_curve.py'),
            *arguments,
        ],
        cwd=str(folder),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return process.returncode, process.stdout, process.stderr


def test_sweep_and_its_second_run(project, monkeypatch, capsys):
    command = [
        'tiny.py',
        'weights.pth',
        '--epsilons',
        '0',
        '16',
        '--num-images',
        '2',
        '--work-dir',
        'work',
    ]
    command += ['--json', 'all/curve.json']
    code, printed, error = curve(project, *command, '--plot', 'curve.png')
    assert code == 0, error
    entries = {
        each['epsilon']: each for each in json.loads((project / 'all' / 'curve.json').read_text())
    }
    assert (
        sorted(entries) == [0, 16]
        and entries[0]['robust'] == entries[0]['clean']
        and entries[0]['num_images'] == 2
    )
    protocol = entries[16]['protocol']
    assert (protocol['epsilon'], protocol['step_size'], protocol['num_steps']) == pytest.approx(
        (16 / 255, 2 / 255, 10)
    )
    assert entries[16]['robust'] != entries[16]['clean'] == entries[0]['clean']
    assert '| tiny | 1' in printed and (project / 'curve.png').stat().st_size > 1000
    # Nothing is evaluated again.
    monkeypatch.chdir(project)
    monkeypatch.setattr('afan_mm.analysis.robustness_sweep.evaluate', None)
    monkeypatch.setattr(sys, 'argv', ['robustness_curve.py', *command])
    tool.main()
    assert capsys.readouterr().out == printed
    monkeypatch.setattr(sys, 'argv', ['robustness_curve.py', *command, '--metric', 'mDice'])
    with pytest.raises(UsageError, match='--metric must be one of aAcc, mAcc, mIoU, but got mDice'):
        tool.main()


@pytest.mark.parametrize(
    'number, places', [(None, None), (2, [0, 2]), (3, [0, 1, 3]), (5, [0, 1, 2, 3, 4])]
)
def test_some_images_are_spread_over_all(number, places, project, monkeypatch):
    monkeypatch.chdir(project)
    sweep = robustness_sweep.Sweep([], num_images=number)
    (run,) = robustness_sweep.prepare([('tiny.py', 'weights.pth')], sweep)
    assert IMAGES == 5 and run['indices'] == places


def test_figures_belong_to_config_weights_data_and_attack(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / 'heir.py').write_text("_base_ = './tiny.py'\n")
    torch.save(dict(state_dict={}), str(project / 'other.pth'))

    def key(config='heir.py', weights='weights.pth', epsilon=4.0, *options):
        args = tool.parse_args([config, weights, *options])
        sweep = robustness_sweep.Sweep([], args.attack, args.num_images, args.cfg_options)
        (run,) = robustness_sweep.prepare([(config, weights)], sweep)
        return robustness_sweep.key_of(run, epsilon, sweep)

    # an address of a store that mmengine knows
    stores = {'store://': lambda name, map_location: torch.load('weights.pth')}
    monkeypatch.setattr(CheckpointLoader, '_schemes', stores)
    assert key('heir.py', 'store://weights') == key()
    keys = [key(), key('heir.py', 'other.pth'), key('heir.py', 'weights.pth', 8.0)]
    keys += [
        key('heir.py', 'weights.pth', 4.0, *options)
        for options in (
            ('--attack', 'cospgd'),
            ('--num-images', '2'),
            ('--cfg-options', 'test_cfg.num_steps=3'),
            ('--cfg-options', 'data_preprocessor.mean=[1,2,3]'),  # where mmpretrain has it
        )
    ]
    assert key() == keys[0]
    text = (project / 'tiny.py').read_text()
    # what a config inherits
    (project / 'tiny.py').write_text(text.replace('align_corners=False', 'align_corners=True', 1))
    keys.append(key())
    (project / 'tiny.py').write_text(text)
    assert key() == keys[0]
    image = next(project.glob('digits/JPEGImages/val_*'))
    before = image.stat()
    os.utime(str(image), ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    keys.append(key())
    os.utime(str(image), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert key() == keys[0] and len(set(keys)) == len(keys) == 9


@pytest.mark.parametrize(
    'arguments, message',
    (
        (['tiny.py'], 'every CONFIG needs a CHECKPOINT, but got 1 paths'),
        (['tiny.py', 'gone.pth'], 'checkpoint must be a file, but got gone.pth'),
        (['gone.py', 'weights.pth'], 'config must be a file, but got gone.py'),
        (
            ['tiny.py', 'weights.pth', 'detector.py', 'weights.pth'],
            'all configs must be of one library, but tiny.py is of mmseg, and detector.py of mmdet',
        ),
        (
            ['tiny.py', 'weights.pth', 'tiny.py', 'weights.pth'],
            "checkpoints with one label must differ, but weights.pth is there twice as 'tiny'",
        ),
        (
            ['tiny.py', 'weights.pth', '--num-images', '6'],
            f'--num-images must be from 1 to {IMAGES}, the images of the test set, but got 6',
        ),
        (
            ['coco.py', 'weights.pth', '--num-images', '2'],
            '--num-images does not go with Coco, which counts every image of its ann_file',
        ),
        (
            [
                *('tiny.py', 'weights.pth', '--num-images', '2', '--cfg-options'),
                'test_dataloader.dataset.indices=3',
            ],
            '--num-images does not go with indices in test_dataloader.dataset, which choose images',
        ),
        (
            ['tiny.py', 'weights.pth', '--cfg-options', 'test_cfg.epsilon=1/255'],
            '--cfg-options must leave test_cfg.epsilon to --attack and --epsilons',
        ),
        (
            ['tiny.py', 'weights.pth', '--cfg-options', 'test_dataloader.dataset.data_root=gone/'],
            'data is missing',
        ),
        (['tiny.py', 'weights.pth', '--plot', 'curve.txt'], '--plot must end in one of .'),
        (
            ['tiny.py', 'weights.pth', '--plot', 'tiny.py/curve.png'],
            '--plot must be a file in a folder that can be written, but got tiny.py/curve.png',
        ),
        (
            ['tiny.py', 'weights.pth', '--work-dir', 'tiny.py'],
            '--work-dir must be a folder that can be written, but got tiny.py',
        ),
        (
            ['tiny.py', 'weights.pth', '--labels', 'a', 'b'],
            '--labels must be one for each of the 1 checkpoints, but got 2',
        ),
        (
            ['tiny.py', 'weights.pth', '--json', 'tiny.py'],
            '--json must be a file of this tool, or none, but got tiny.py',
        ),
    ),
    ids=(
        'odd',
        'gone',
        'no_config',
        'hosts',
        'twice',
        'images',
        'subset',
        'indices',
        'swept',
        'data',
        'format',
        'plot',
        'work_dir',
        'labels',
        'json',
    ),
)
def test_bad_input(project, monkeypatch, arguments, message):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, 'argv', ['robustness_curve.py', *arguments])
    before = sorted(project.rglob('*'))
    with pytest.raises(UsageError, match=re.escape(message)):
        tool.main()
    assert sorted(project.rglob('*')) == before


@pytest.mark.parametrize('given', ('300', '-1', 'nan', 'two'))
def test_bad_radius(given, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['a.py', 'a.pth', f'--epsilons={given}'])
    assert f'must be a number in [0, 255], in 1/255, but got {given!r}' in capsys.readouterr().err


def test_failed_evaluation_names_its_log(project):
    """The last line that it printed is the reason; the sweep leaves what was finished."""
    code, _, error = curve(
        project,
        'tiny.py',
        'weights.pth',
        '--epsilons',
        '1',
        '--work-dir',
        'failed',
        '--cfg-options',
        'test_evaluator.type=Gone',
    )
    assert (
        code != 0
        and 'tiny.py with weights.pth could not be evaluated: ' in error
        and 'log.txt' in error
    )
    assert 'Traceback' not in error and not (project / 'failed' / 'curve.json').exists()
