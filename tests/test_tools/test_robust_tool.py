"""tools/test.py --robust, and the two lines of a config that do the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from afan_mm.cli import command_line
from afan_mm.cli.runner import build_runner
from afan_mm.robustness.settings import PROTOCOLS
from afan_mm.utils.errors import UsageError
from support.digits import digits_voc
from support.fast_python import python
from support.paths import TOOLS
from support.projects import NUM_VAL, write_project
from support.robust_runs import IMAGES, config, make_data
from support.tiny import build
from support.tools import configure_test, test


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(digits_voc, tmp_path_factory.mktemp('robust_tool') / 'digits')


@pytest.fixture(scope='module', params=['mmseg', 'mmdet', 'mmpretrain'])
def project(request, data, tmp_path_factory):
    """A config file without a word of robustness, and a checkpoint: the folder that holds them."""
    folder = tmp_path_factory.mktemp(f'robust_{request.param}')
    if request.param == 'mmpretrain':
        cfg = Config.fromfile(str(write_project('mmpretrain', folder)))
        cfg.model.head.num_classes = 4  # AutoAttack needs as many
        for offset, name in ((90, 'a'), (135, 'b')):  # one class is brighter than the other
            for path in folder.glob(f'val/{name}/*.png'):
                cv2.imwrite(str(path), cv2.imread(str(path)) // 8 + offset)
    else:
        cfg = config(request.param, data, folder / 'unused')
    cfg.test_cfg = dict(type='TestLoop')
    for key in ('work_dir', 'experiment_name'):
        cfg.pop(key, None)
    torch.save(dict(state_dict=build(cfg.model).state_dict()), str(folder / 'weights.pth'))
    cfg.dump(str(folder / 'stock.py'))
    return request.param, folder


def run_tool(folder, *arguments):
    environment = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    return subprocess.run(
        [python(), str(TOOLS / 'test.py'), *arguments],
        cwd=str(folder),
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_robust_option(project):
    """The paper's protocol for the host with one change, a table in the log, a report and
    pictures.
    """
    host, folder = project
    draws = host != 'mmpretrain'  # a classifier has no boxes or maps to draw
    process = run_tool(
        folder,
        *('stock.py', 'weights.pth', '--robust', '--work-dir', 'work'),
        *(('--show-dir', 'drawn') if draws else ()),
        *('--cfg-options', 'test_cfg.num_steps=1', 'test_cfg.show_interval=4'),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    report = json.loads((folder / 'work' / 'robust.json').read_text())
    strengths = dict(
        mmseg=(1 / 255, 8 / 255), mmdet=(0.3 / 255, 2 / 255), mmpretrain=(2 / 255, 8 / 255)
    )[host]
    assert report['protocol'] == dict(
        attack='pgd',
        num_steps=1,
        step_size=strengths[0],
        epsilon=strengths[1],
        random_start=False,
        seed=0,
    )
    images = IMAGES if draws else NUM_VAL
    assert report['checkpoint'] == 'weights.pth' and report['num_images'] == images
    assert report['clean'].keys() == report['robust'].keys() and report['clean']
    (log,) = (folder / 'work').glob('*/*.log')
    assert 'robust evaluation: PGD-1, ' in log.read_text()
    assert any(
        line.split() == ['┃', 'metric', '┃', 'clean', '┃', 'robust', '┃', 'change', '┃']
        for line in log.read_text().splitlines()
    )
    drawn = sorted(path.name for path in folder.glob('drawn/*'))
    assert drawn == (['val_00000.png', 'val_00004.png'] if draws else [])


def test_checkpoint_of_another_model(project, tmp_path, monkeypatch):
    """Its table would be neat, and of an untrained network."""
    _, folder = project
    weights = torch.load(str(folder / 'weights.pth'))['state_dict']
    gone, *kept = weights
    other = {**{key: weights[key] for key in kept}, 'head.weight': torch.zeros(1)}
    torch.save(dict(state_dict=other), str(tmp_path / 'other.pth'))
    options = [str(folder / 'stock.py'), str(tmp_path / 'other.pth'), '--work-dir', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['test.py', *options])
    message = (
        f'checkpoint must be of the model .* 1 missing .{gone}.; 1 unknown .head.weight.; '
        '--any-checkpoint evaluates it all the same$'
    )
    with pytest.raises(UsageError, match=message):
        test.main()
    assert not list(tmp_path.glob('*/*.json'))
    monkeypatch.setattr(sys, 'argv', ['test.py', *options, '--any-checkpoint'])
    test.main()
    assert list(tmp_path.glob('*/*.json'))  # of its metrics


def test_two_lines_of_a_config(project):
    """Without any option: the paper's protocol for the host."""
    host, folder = project
    (folder / 'two_lines.py').write_text(
        "_base_ = './stock.py'\n"
        "custom_imports = dict(imports=['afan_mm'], allow_failed_imports=False)\n"
        "test_cfg = dict(type='RobustTestLoop')\n"
    )
    cfg = configure_test(
        str(folder / 'two_lines.py'),
        str(folder / 'weights.pth'),
        '--work-dir',
        str(folder / 'two_lines'),
    )
    build_runner(cfg).test()
    protocol = json.loads((folder / 'two_lines' / 'robust.json').read_text())['protocol']
    assert (
        protocol == dict(PROTOCOLS[host], random_start=False, seed=0)
        and protocol['num_steps'] == 10
    )


def test_options_become_keys_of_the_loop(project):
    host, folder = project
    files = [str(folder / 'stock.py'), str(folder / 'weights.pth')]
    assert configure_test(*files).test_cfg == dict(type='TestLoop')
    options = [
        '--robust',
        '--show-dir',
        'drawn',
        '--cfg-options',
        'test_cfg.epsilon=4/255',
        'test_cfg.fp16=True',
    ]
    cfg = configure_test(*files, *options)
    assert cfg.test_cfg == dict(type='RobustTestLoop', show_dir='drawn', epsilon='4/255', fp16=True)
    hook = cfg.default_hooks.get('visualization', {})  # the loop draws its own pictures
    assert not hook.get('draw', False)
    if host == 'mmseg':
        assert configure_test(*files, '--robust', 'segpgd').test_cfg.attack == 'segpgd'


def test_what_the_config_says_of_its_loop_stays(project):
    """Unless an option says something else; another loop has no use for it."""
    host, folder = project
    path, checkpoint = str(folder / 'loop.py'), str(folder / 'weights.pth')
    attack = 'segpgd' if host == 'mmseg' else 'pgd'
    robust = dict(type='RobustTestLoop', attack=attack, num_steps=1, show_dir='a')
    corrupted = dict(type='CorruptionTestLoop', corruptions=['fog'], severities=[3], metric='mIoU')

    def test_cfg(stock, *options):
        test_cfg = dict(stock, _delete_=True, fp16=True)
        Path(path).write_text(f"_base_ = './stock.py'\ntest_cfg = {test_cfg}\n")
        found = configure_test(path, checkpoint, *options).test_cfg
        assert found.pop('fp16') is True  # which both take
        return found

    assert test_cfg(robust, '--robust') == robust
    named = test_cfg(robust, '--robust', 'pgd', '--show-dir', 'b')
    assert named == dict(robust, attack='pgd', show_dir='b')
    changed = test_cfg(robust, '--robust', '--cfg-options', 'test_cfg.attack=pgd')
    assert changed == dict(robust, attack='pgd')
    assert test_cfg(corrupted, '--corruptions') == corrupted
    named = test_cfg(corrupted, '--corruptions', 'snow', '--severities', '1')
    assert named == dict(corrupted, corruptions=['snow'], severities=[1])
    assert test_cfg(corrupted, '--robust') == dict(type='RobustTestLoop')
    assert test_cfg(robust, '--corruptions') == dict(type='CorruptionTestLoop')
    with pytest.raises(UsageError, match='severity must be'):
        test_cfg(dict(corrupted, severities=[9]), '--corruptions')


@pytest.mark.parametrize(
    'options, message',
    [
        ('--robust --tta', '--tta does not go with --robust'),
        ('--robust --show', '--show does not go with --robust'),
        (
            '--robust --cfg-options test_cfg.steps=3',
            r"test_cfg: .* no setting \['steps'\]; its attack knows \['epsilon'",
        ),
        (
            '--robust --cfg-options test_cfg.num_steps=many',
            "test_cfg: num_steps must be an integer >= 1, but got 'many'",
        ),
        (
            '--robust --cfg-options test_cfg.epsilon=8',
            'test_cfg: epsilon must be .* but got 8: 8 grey levels are 8/255',
        ),
    ],
)
def test_bad_options(project, options, message):
    _, folder = project
    with pytest.raises(UsageError, match=message):
        configure_test(str(folder / 'stock.py'), str(folder / 'weights.pth'), *options.split())


def test_an_attack_on_pixels_needs_a_segmentor(project):
    host, folder = project
    arguments = [str(folder / 'stock.py'), str(folder / 'weights.pth'), '--robust', 'cospgd']
    if host == 'mmseg':
        assert configure_test(*arguments).test_cfg.attack == 'cospgd'
    else:
        allowed = dict(
            mmdet=r"\('pgd',\) for a detector",
            mmpretrain=r"\('pgd', 'autoattack'\) for a classifier",
        )[host]
        message = (
            f"attack must be one of {allowed}, which has no classes of pixels, but got 'cospgd'"
        )
        with pytest.raises(UsageError, match=message):
            configure_test(*arguments)


def test_auto_attack(project):
    """AutoAttack by command, on a classifier that was right: its two classes are told apart by the
    difference of their mean features, and lose it.
    """
    host, folder = project
    if host != 'mmpretrain':
        with pytest.raises(UsageError, match="attack must be one of .* but got 'autoattack'"):
            configure_test(
                *(str(folder / 'stock.py'), str(folder / 'weights.pth'), '--robust', 'autoattack')
            )
        return
    pytest.importorskip('pyautoattack')
    cfg = Config.fromfile(str(folder / 'stock.py'))
    model = build(cfg.model).eval()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader(cfg.test_dataloader)
    with torch.no_grad():
        features = [
            model.extract_feat(model.data_preprocessor(batch)['inputs'])[-1] for batch in loader
        ]
        first, second = (torch.cat(part).mean(0) for part in (features[:3], features[3:]))
        direction = (first - second) / (first - second).square().sum()
        fc = model.head.fc
        fc.weight.zero_()
        fc.bias.zero_()
        for row, sign in enumerate((1, -1)):
            fc.weight[row] = sign * direction
            fc.bias[row] = -sign * direction @ (first + second) / 2
    torch.save(dict(state_dict=model.state_dict()), str(folder / 'right.pth'))
    process = run_tool(
        folder,
        *('stock.py', 'right.pth', '--robust', 'autoattack', '--work-dir', 'auto'),
        *('--cfg-options', 'test_cfg.epsilon=32/255'),
    )
    assert process.returncode == 0, process.stderr[-3000:]
    report = json.loads((folder / 'auto' / 'robust.json').read_text())
    assert report['protocol']['attack'] == 'autoattack'
    assert report['clean']['accuracy/top1'] == 100 and report['robust']['accuracy/top1'] == 0


def test_a_test_set_without_ground_truth_is_one_line(project, monkeypatch, capsys):
    host, folder = project
    cfg = Config.fromfile(str(folder / 'stock.py'))
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = [step for step in dataset.pipeline if step.type != 'LoadAnnotations']
    if host == 'mmpretrain':  # there the data set itself reads the classes
        dataset.with_label = False
    cfg.dump(str(folder / 'blind.py'))
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'test.py',
            str(folder / 'blind.py'),
            str(folder / 'weights.pth'),
            '--robust',
            '--work-dir',
            str(folder / 'blind'),
        ],
    )
    with pytest.raises(SystemExit) as stopped:
        command_line.run(test.main)
    assert stopped.value.code == 2
    missing = (
        'a DataSample of the test set has none'
        if host == 'mmpretrain'
        else 'the test pipeline has no LoadAnnotations: add it before'
    )
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f'test.py: error: the attack needs ground truth, but {missing}')
    assert not list((folder / 'blind').glob('*robust*'))
