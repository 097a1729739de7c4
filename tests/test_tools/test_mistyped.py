"""What a user mistypes is said in one line, before anything is built."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from afan_mm.cli.command_line import run
from support.tools import configure_test, configure_train, load_tool, test, train

NAME = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'


@pytest.mark.parametrize(
    'given, message',
    [
        ('train_cfg.max_iters', "must be KEY=VALUE, but got 'train_cfg.max_iters'"),
        ('=3', "must be KEY=VALUE, but got '=3'"),
        ('scale=(1,2', 'Imbalanced brackets exist in (1,2'),
    ],
)
def test_cfg_options(given, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.parse_args(['config.py', '--cfg-options', 'a=1', given])
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and lines[-1].endswith(f'argument --cfg-options: {message}')


@pytest.mark.parametrize(
    'given, message',
    [
        (('--jobs', '0'), "argument --jobs: must be an integer >= 1, but got '0'"),
        (('--seeds', '0-'), 'argument --seeds: must be numbers and ranges such as 0-4, but got 0-'),
        (('--gpus', '1'), '--partition and --gpus want --executor slurm, but got local'),
        (
            ('--minutes', '5', '--executor', 'debug'),
            '--minutes wants a process for each run, but got --executor debug',
        ),
    ],
)
def test_options_of_an_experiment(given, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        load_tool('experiment').parse_args(['experiment.py', *given])
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and lines[-1].endswith(message)


@pytest.mark.parametrize(
    'given, options',
    [
        ('', {}),
        ('--minutes 5', dict(timeout_min=5)),
        ('--executor slurm --gpus 2 --partition a', dict(slurm_partition='a', gpus_per_node=2)),
    ],
)
def test_what_the_executor_of_an_experiment_is_told(given, options):
    tool = load_tool('experiment')
    assert tool.executor_options(tool.parse_args(['experiment.py', *given.split()])) == options


def test_names_of_installed_configs():
    cfg = configure_train(NAME, '--cfg-options', 'train_cfg.max_epochs=3')
    root = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim' / 'configs'
    expected = Config.fromfile(str(root / NAME.partition('::')[2]))
    assert cfg.model == expected.model and cfg.train_cfg.max_epochs == 3
    assert cfg.work_dir == 'work_dirs/faster-rcnn_r50_fpn_1x_coco'


TOOLS = dict(train=train, test=test, print_config=load_tool('misc/print_config'))


@pytest.mark.parametrize('tool', TOOLS)
@pytest.mark.parametrize(
    'name, message',
    [
        (
            'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coko.py',
            f'config must be one that mmdet installs, but got .*coko.py; did you mean {NAME}',
        ),
        ('mmdet::gone/gone.py', 'config must be one that mmdet installs, but got mmdet::gone/gone'),
        ('mmgone::fcn/fcn.py', 'config must be of an installed package, but got mmgone::fcn/fcn'),
    ],
)
def test_names_that_are_none(tool, name, message, monkeypatch, capsys):
    checkpoint = ['gone.pth'] if tool == 'test' else []
    monkeypatch.setattr(sys, 'argv', [f'{tool}.py', name, *checkpoint])
    with pytest.raises(SystemExit) as stopped:
        run(TOOLS[tool].main)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == ''
    assert re.fullmatch(f'{tool}.py: error: {message}.*\n', err)


def test_names_of_installed_configs_in_the_other_tools(tmp_path, monkeypatch, capsys):
    expected = configure_train(NAME).model
    torch.save(dict(state_dict={}), str(tmp_path / 'weights.pth'))
    cfg = configure_test(NAME, str(tmp_path / 'weights.pth'), '--work-dir', str(tmp_path))
    monkeypatch.setattr(sys, 'argv', ['print_config.py', NAME])
    TOOLS['print_config'].main()
    printed = Config.fromstring(capsys.readouterr().out, '.py')
    assert cfg.model == printed.model == expected
