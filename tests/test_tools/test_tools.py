"""What the options of tools/train.py and tools/test.py do to a config, and what a user sees of bad
input.
"""

import argparse
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.registry import METRICS, MODELS, TRANSFORMS

from afan_mm.cli.main import TOOLS as COMMANDS
from afan_mm.cli.main import main as afan
from afan_mm.conversion.host import in_scope
from afan_mm.utils.errors import UsageError
from support.fast_python import python
from support.paths import TOOLS
from support.tools import configure_test, configure_train, demo

CONFIG = """
default_scope = '{scope}'
model = dict(type='Model')
optim_wrapper = dict(type='OptimWrapper', clip_grad=dict(max_norm=1.), optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(visualization=dict(type='NaiveVisualizationHook'))
visualizer = dict(type='Visualizer')
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
test_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=dict(type='Data', pipeline=pipeline)))
test_evaluator = dict(type='Metric')
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""
PURE = """
from mmdet.models import CascadeRCNN

default_scope = None
model = dict(type=CascadeRCNN)
test_dataloader = dict(dataset=dict(type='Data', pipeline=[dict(type='LoadImageFromFile'), dict(type='Pack')]))
test_evaluator = dict(type='Metric')
"""


@pytest.fixture(params=['mmdet', 'mmseg'])
def scope(request):
    return request.param


@pytest.fixture
def config(scope, tmp_path):
    path = tmp_path / f'tiny_{scope}.py'
    path.write_text(CONFIG.format(scope=scope))
    return str(path)


@pytest.fixture
def checkpoint(tmp_path):
    torch.save(dict(state_dict={}), str(tmp_path / 'weights.pth'))
    return str(tmp_path / 'weights.pth')


def append(config, text):
    with open(config, 'a') as file:
        file.write(text + '\n')


def test_defaults_leave_the_config_alone(config):
    cfg = configure_train(config)
    assert cfg.work_dir == os.path.join('work_dirs', Path(config).stem)
    assert cfg.launcher == 'none' and cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'resume' not in cfg and 'load_from' not in cfg and cfg.auto_scale_lr.enable is False


def test_work_dir_and_cfg_options(config):
    assert (
        configure_train(
            config, '--cfg-options', 'work_dir=a', 'optim_wrapper.optimizer.lr=1'
        ).work_dir
        == 'a'
    )
    cfg = configure_train(
        config, '--work-dir', 'b', '--cfg-options', 'work_dir=a', 'optim_wrapper.optimizer.lr=1'
    )
    assert cfg.work_dir == 'b' and cfg.optim_wrapper.optimizer == dict(type='SGD', lr=1)


@pytest.mark.parametrize('option', ['--local-rank', '--local_rank'])
def test_local_rank(config, option, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '')
    monkeypatch.delenv('LOCAL_RANK')  # set first, so that monkeypatch removes what the tool sets
    configure_train(config, f'{option}=3', '--launcher', 'pytorch')
    assert os.environ['LOCAL_RANK'] == '3'


@pytest.mark.parametrize(
    'given,expected',
    [
        ('OptimWrapper', 'AmpOptimWrapper'),
        ('mmengine.OptimWrapper', 'AmpOptimWrapper'),
        ('AFANOptimWrapper', 'AFANAmpOptimWrapper'),
    ],
)
def test_amp_keeps_the_other_keys(config, given, expected):
    cfg = configure_train(config, '--amp', '--cfg-options', f'optim_wrapper.type={given}')
    assert cfg.optim_wrapper == dict(
        type=expected,
        loss_scale='dynamic',
        clip_grad=dict(max_norm=1.0),
        optimizer=dict(type='SGD', lr=0.1),
    )


def test_amp_leaves_a_mixed_precision_wrapper_alone(config):
    options = ['optim_wrapper.type=AFANAmpOptimWrapper', 'optim_wrapper.loss_scale=512.']
    assert (
        configure_train(config, '--amp', '--cfg-options', *options).optim_wrapper.loss_scale
        == 512.0
    )


def test_amp_refuses_other_wrappers(config):
    with pytest.raises(UsageError, match='AFANOptimWrapper.*but got ApexOptimWrapper'):
        configure_train(config, '--amp', '--cfg-options', 'optim_wrapper.type=ApexOptimWrapper')


def test_auto_scale_lr(config):
    assert configure_train(config, '--auto-scale-lr').auto_scale_lr.enable is True
    append(config, 'auto_scale_lr = dict()')
    with pytest.raises(UsageError, match='auto_scale_lr.base_batch_size'):
        configure_train(config, '--auto-scale-lr')


def test_resume(config, checkpoint, tmp_path):
    append(config, "load_from = 'pretrained.pth'")
    assert configure_train(config).load_from == 'pretrained.pth'
    resume = ('--resume', '--work-dir', str(tmp_path))
    cfg = configure_train(config, *resume)  # nothing is there yet: the run begins
    assert not cfg.get('resume') and cfg.load_from == 'pretrained.pth'
    (tmp_path / 'last_checkpoint').write_text(checkpoint)
    cfg = configure_train(config, *resume)
    assert cfg.resume is True and cfg.load_from is None
    cfg = configure_train(config, '--resume', checkpoint)
    assert cfg.resume is True and cfg.load_from == checkpoint


def test_resume_checks_the_latest_checkpoint(config, tmp_path):
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'gone.pth'))
    with pytest.raises(UsageError, match='checkpoint must be a file, but got .*gone.pth'):
        configure_train(config, '--resume', '--work-dir', str(tmp_path))


def test_out_has_the_hosts_meaning(config, scope, checkpoint):
    if scope == 'mmdet':
        evaluator = configure_test(config, checkpoint, '--out', 'found.pkl').test_evaluator
        assert evaluator == [
            dict(type='Metric'),
            dict(type='mmdet.DumpDetResults', out_file_path='found.pkl'),
        ]
        with pytest.raises(UsageError, match='must end with .pkl or .pickle .* but got found.txt'):
            configure_test(config, checkpoint, '--out', 'found.txt')
    else:
        with pytest.raises(UsageError, match='--out needs a metric with output_dir.* got Metric'):
            configure_test(config, checkpoint, '--out', 'masks')
        append(
            config,
            "test_evaluator = [dict(type=kind) for kind in ('CityscapesMetric', 'IoUMetric', "
            "'CalibrationMetric')]",
        )
        evaluator = configure_test(config, checkpoint, '--out', 'masks').test_evaluator
        assert evaluator == [
            dict(type='CityscapesMetric', output_dir='masks', keep_results=True),
            dict(type='IoUMetric', output_dir='masks'),
            dict(type='CalibrationMetric'),  # which takes neither
        ]


def test_show(config, scope, checkpoint):
    cfg = configure_test(config, checkpoint, '--show', '--wait-time', '5', '--show-dir', 'drawn')
    hook = dict(type='NaiveVisualizationHook', draw=True, show=True, wait_time=5)
    assert cfg.default_hooks.visualization == (
        dict(hook, test_out_dir='drawn') if scope == 'mmdet' else hook
    )
    assert cfg.visualizer.get('save_dir') == (None if scope == 'mmdet' else 'drawn')
    append(config, 'default_hooks = dict()')
    with pytest.raises(UsageError, match='default_hooks.visualization'):
        configure_test(config, checkpoint, '--show')


def test_tta(config, scope, checkpoint):
    if scope == 'mmseg':
        with pytest.raises(UsageError, match='--tta needs a config with tta_model'):
            configure_test(config, checkpoint, '--tta')
        append(
            config,
            "tta_model = dict(type='SegTTAModel')\ntta_pipeline = [dict(type='TestTimeAug')]",
        )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter('always')
        cfg = configure_test(config, checkpoint, '--tta')
    defaults = [f'{w.message}' for w in warned if 'we will set it as default' in f'{w.message}']
    assert len(defaults) == (2 if scope == 'mmdet' else 0)  # as the libraries' own tools say
    assert cfg.model.type == ('DetTTAModel' if scope == 'mmdet' else 'SegTTAModel')
    assert cfg.model.module == dict(type='Model')
    pipeline = cfg.test_dataloader.dataset.dataset.pipeline
    assert [step.type for step in pipeline] == (
        ['LoadImageFromFile'] if scope == 'mmdet' else []
    ) + ['TestTimeAug']


@pytest.mark.parametrize('scope', ['mmseg'])
def test_tta_does_not_go_with_the_logits_of_a_segmentor(config, checkpoint):
    append(config, "tta_model = dict(type='SegTTAModel')\ntta_pipeline = []")
    append(config, "test_evaluator = [test_evaluator, dict(type='CalibrationMetric')]")
    with pytest.raises(UsageError, match='--tta does not go with CalibrationMetric, .*: leave it'):
        configure_test(config, checkpoint, '--tta')


def test_options_of_a_config_in_the_pure_python_style(tmp_path, checkpoint):
    """It names classes, and its scope is none: the model's class says which library it is of. What
    the options add is found without a scope.
    """
    path, hook = tmp_path / 'pure.py', 'visualization=dict(type="DetVisualizationHook")'
    path.write_text(PURE + f'default_hooks = dict({hook})\n')
    out = str(tmp_path / 'found.pkl')
    with pytest.warns(UserWarning, match='we will set it as default'):
        cfg = configure_test(str(path), checkpoint, '--tta', '--out', out, '--show-dir', 'drawn')
    assert cfg.default_hooks.visualization.test_out_dir == 'drawn'
    (flip, _), (pack,) = cfg.test_dataloader.dataset.pipeline[-1].transforms
    added = [(MODELS, cfg.model), (METRICS, cfg.test_evaluator[-1])]
    added += [(TRANSFORMS, flip), (TRANSFORMS, pack)]
    for scope in (None, 'mmdet'):
        for registry, each in added:
            with in_scope(scope), registry.switch_scope_and_registry(None) as scoped:
                assert scoped.get(each.type).__module__.startswith('mmdet.'), (scope, each.type)
    assert configure_test(str(path), checkpoint, '--robust').test_cfg.type == 'RobustTestLoop'
    path.write_text(
        PURE.replace('CascadeRCNN', 'BaseModel').replace('mmdet.models', 'mmengine.model')
    )
    with pytest.raises(UsageError, match='--robust needs .* or a model of one of .*got None'):
        configure_test(str(path), checkpoint, '--robust')


@pytest.mark.parametrize('scope', ['mmdet'])
def test_tta_of_several_data_sets(config, checkpoint):
    """Each gets the pipeline, and the default is made of theirs, if it is one."""
    parts = "type='ConcatDataset', datasets=[test_dataloader['dataset']] * 2"
    append(config, f'test_dataloader = dict(dataset=dict({parts}))')
    with pytest.warns(UserWarning, match='we will set it as default'):
        cfg = configure_test(config, checkpoint, '--tta')
    pipelines = [each.dataset.pipeline for each in cfg.test_dataloader.dataset.datasets]
    assert len(pipelines) == 2 and all(each == cfg.tta_pipeline for each in pipelines)
    other = 'test_dataloader.dataset.datasets.1.dataset.pipeline.0.type=Other'
    with pytest.raises(UsageError, match='--tta needs tta_pipeline for data sets of several pipe'):
        configure_test(config, checkpoint, '--tta', '--cfg-options', other)


def test_tta_of_a_classifier(tmp_path, checkpoint):
    """The defaults of mmpretrain's own tool."""
    path = tmp_path / 'classifier.py'
    path.write_text(CONFIG.format(scope='mmpretrain').replace('PackDetInputs', 'PackInputs'))
    with pytest.warns(UserWarning, match='we will set it as default'):
        cfg = configure_test(str(path), checkpoint, '--tta')
    model = dict(type='Model')
    assert cfg.model == dict(type='mmpretrain.AverageClsScoreTTA', module=model)
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    assert cfg.test_dataloader.dataset.dataset.pipeline == [
        dict(type='LoadImageFromFile'),
        dict(type='TestTimeAug', transforms=[flips, [dict(type='PackInputs')]]),
    ]


def test_host_options_need_a_host(config, checkpoint):
    append(config, "default_scope = 'mmrazor'")
    with pytest.raises(UsageError, match="or a model of one of them, but got 'mmrazor'"):
        configure_test(config, checkpoint, '--tta')


@pytest.mark.parametrize(
    'content,message',
    [
        (None, 'config must be a file'),
        ('model = dict(', 'cannot read config'),
        ("_base_ = 'gone.py'", 'cannot read config'),
        (
            "custom_imports = dict(imports=['gone'], allow_failed_imports=False)",
            'cannot read config',
        ),
    ],
)
def test_bad_config(content, message, tmp_path):
    path = tmp_path / 'config.py'
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message):
        configure_train(str(path))


@pytest.mark.parametrize('content', [None, b'', b'not a checkpoint', b'PK\x03\x04 cut short'])
def test_bad_checkpoint(config, content, tmp_path):
    path = tmp_path / 'broken.pth'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match='checkpoint .*broken.pth'):
        configure_test(config, str(path))


@pytest.mark.parametrize(
    'tool,arguments', [('train', ['gone.py']), ('test', ['gone.py', 'gone.pth'])]
)
def test_bad_input_is_one_line_and_exit_code_2(tool, arguments, tmp_path):
    process = subprocess.run(
        [python(), str(TOOLS / f'{tool}.py'), *arguments],
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert (
        process.stderr.splitlines()[-1]
        == f'{tool}.py: error: config must be a file, but got gone.py'
    )
    assert 'Traceback' not in process.stderr


def test_demo_reports_fractions(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    (tmp_path / 'test' / '1').mkdir(parents=True)
    (tmp_path / 'test' / '1' / '1.json').write_text(
        '{"mIoU": 61.27, "pascal_voc/AP50": 70.5, "time": 0.1}'
    )
    assert demo.read_metrics('test', 0.01) == dict(mIoU=0.6127, AP50=0.705)
    with pytest.raises(demo.StageError, match='no metrics'):
        demo.read_metrics('nothing', 1.0)


def test_demo_data_must_be_complete(tmp_path):
    assert not demo.is_complete(tmp_path)
    for name in (
        'ImageSets/Main/trainval.txt',
        'JPEGImages/a.jpg',
        'Annotations/a.xml',
        'SegmentationClass/a.png',
    ):
        assert not demo.is_complete(tmp_path)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('a\n')
    assert demo.is_complete(tmp_path)


def test_demo_ends_with_ten_lines_of_commands_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    folder = tmp_path / demo.OUT / 'segmentation'
    folder.mkdir(parents=True)
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_300.pth'))
    text = demo.what_next(argparse.Namespace(segmentation=demo.SEGMENTATION))
    commands = [line.split()[1] for line in text.splitlines() if line.startswith('  afan ')]
    assert len(text.splitlines()) == 10 and commands == ['health', 'features', 'test', 'convert']
    assert set(commands) <= set(COMMANDS) and 'work_dirs/demo/segmentation/iter_300.pth' in text


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_starts(name, monkeypatch, capsys):
    """And calls itself what the user called it."""
    monkeypatch.setattr(sys, 'argv', ['afan'])
    with pytest.raises(SystemExit) as end:
        afan([name, '-h'])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: afan {name} ')
