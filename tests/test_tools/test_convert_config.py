"""The config that tools/convert_config.py writes, for every family of the hosts, and what it tells
a user of bad input.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmseg.models.decode_heads import FCNHead, PSPHead

import afan_mm
from afan_mm.cli.training import training_config
from afan_mm.conversion import Conversion, ConversionError, config_file, convert, converted
from afan_mm.conversion.config_text import config_text
from afan_mm.conversion.convert import inherit
from afan_mm.conversion.presets import preset_entry
from afan_mm.conversion.pure_python import is_pure_python
from afan_mm.utils.errors import UsageError
from support.fast_python import python
from support.paths import ROOT, TOOLS
from support.tools import load_tool
from support.versions import counts_operations

tool = load_tool('convert_config')
PAPER = ('--preset', 'paper')

STOCK = """
_base_ = ['./_base_/model.py']
default_scope = 'mmseg'
model = dict(decode_head=dict(num_classes=3))
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1.))
custom_hooks = [dict(type='EMAHook', momentum=1e-4)]
train_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=dict(type='CityscapesDataset')))
"""
MODEL = """
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='ResNetV1c', depth=18),
    decode_head=dict(type='FCNHead', in_channels=512, in_index=3, channels=128, num_classes=19))
"""
WRITTEN = """# A-FAN for stock.py. What is not stated here is inherited.
_base_ = ['../configs/stock.py']
custom_imports = dict(imports=['afan_mm'], allow_failed_imports=False)
# A list takes the place of an inherited one, so this one repeats it.
custom_hooks = [*_base_.custom_hooks, dict(type='AFANHook')]
# In place of AmpOptimWrapper, whose other keys stay.
optim_wrapper = dict(type='AFANAmpOptimWrapper')

# model.neck: no neck; site: the backbone's last layer, a site of the paper.
# model.decode_head: FCNHead stays; site: 'classifier', a site of the paper.
# Settings: preset 'paper', entry seg_cityscapes, for CityscapesDataset.
model = dict(
    neck=dict(type='AFANNeckWrapper', base=None, afan=dict(epsilon=0.3 / 255, num_strengths=3)),
    decode_head=dict(type='AFANDecodeHead', base='FCNHead', afan=dict(epsilon=0.3 / 255, num_strengths=3)))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a stock config, which is the current one."""
    for name, text in (
        ('configs/stock.py', STOCK),
        ('configs/_base_/model.py', MODEL),
        ('new/.keep', ''),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def use(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['convert_config.py', *map(str, arguments)])
    tool.main()


def add(path, text):
    path.write_text(path.read_text() + text)


def files(folder):
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob('*')
        if path.is_file() and path.suffix != '.pyc'
    )


def test_written_config(project, monkeypatch):
    use(monkeypatch, 'configs/stock.py', '--out', 'new/afan.py', *PAPER)
    assert (project / 'new' / 'afan.py').read_text() == WRITTEN
    before = files(project)
    found, stock = Config.fromfile('new/afan.py'), Config.fromfile('configs/stock.py')
    assert (
        files(project)
        == before
        == ['configs/_base_/model.py', 'configs/stock.py', 'new/.keep', 'new/afan.py']
    )
    assert config_file.same(found._cfg_dict, converted(stock, preset='paper')._cfg_dict)
    assert [hook.type for hook in found.custom_hooks] == [
        'EMAHook',
        'AFANHook',
    ] and found.custom_hooks[0].momentum == 1e-4


def test_printed_config(project, monkeypatch, capsys):
    before = files(project)
    use(monkeypatch, 'configs/stock.py', '--out', 'new/afan.py', '--print', *PAPER)
    assert capsys.readouterr().out == WRITTEN and files(project) == before


def test_default_name_and_force(project, monkeypatch, capsys):
    use(monkeypatch, 'configs/stock.py', *PAPER)
    assert (project / 'afan_stock.py').read_text() == WRITTEN.replace("'../configs", "'./configs")
    told = [line[2:] for line in WRITTEN.splitlines() if ': ' in line]
    others = 'Others: --sites, --preset paper, and the options that --help lists.'
    assert capsys.readouterr().out.splitlines() == ['wrote afan_stock.py', *told, others]
    with pytest.raises(UsageError, match='afan_stock.py exists; --force replaces it'):
        use(monkeypatch, 'configs/stock.py', '--epsilon', '1')
    use(monkeypatch, 'configs/stock.py', '--epsilon', '1', '--force', *PAPER)
    assert 'epsilon=1.0' in (project / 'afan_stock.py').read_text()


def test_name_of_a_host(project, monkeypatch):
    use(monkeypatch, 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py', '--sites', 'head')
    found = Config.fromfile('afan_fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py')
    assert (
        "_base_ = ['mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py']"
        in Path(found.filename).read_text()
    )
    assert (
        found.model.decode_head.base == 'FCNHead'
        and 'neck' not in found.model
        and found.model.backbone.depth == 18
    )


def model_of(monkeypatch, *arguments):
    use(monkeypatch, 'configs/stock.py', '--out', 'options.py', '--force', *arguments)
    return Config.fromfile('options.py')


def test_options(project, monkeypatch):
    found = model_of(
        monkeypatch,
        '--sites',
        'backbone.layer2,neck,decode_head.convs',
        '--epsilon',
        '0.7/255',
        '--num-strengths',
        '2',
        '--num-steps',
        '4',
        '--moments',
        'none',
        '--detach',
        '--estimator',
        'single',
        '--interval',
        '5',
        *PAPER,
    )
    settings = dict(
        epsilon=0.7 / 255,
        num_strengths=2,
        num_steps=4,
        moments=None,
        detach=True,
        estimator='single',
        interval=5,
    )
    assert found.model.neck.afan == [dict(settings, site='backbone.layer2'), settings]
    assert found.model.decode_head.afan == dict(settings, site='convs')
    assert 'epsilon=0.7 / 255' in Path('options.py').read_text()


def test_preset_of_the_released_code(project, monkeypatch):
    released = Config.fromfile(str(ROOT / 'configs/_base_/presets/released.py')).seg_cityscapes
    found = model_of(monkeypatch, '--preset', 'released')
    usual = dict(step_size=None, num_steps=1, random_start=False)
    for part, key in (('neck', 'neck'), ('decode_head', 'head')):
        expected = {name: value for name, value in released[key].items() if name != 'site'}
        assert {**usual, **expected} == {**usual, **found.model[part].afan}
    assert found.optim_wrapper.clean_weight == 0.7 and 'paramwise_cfg' not in found.optim_wrapper


@pytest.mark.parametrize(
    'data,entry',
    [
        ("type='CityscapesDataset'", 'seg_cityscapes, for CityscapesDataset.'),
        (
            "type='PascalVOCDataset', data_root='data/VOCdevkit/VOC2012'",
            'seg_voc12, for PascalVOCDataset.',
        ),
        (
            "type='PascalVOCDataset', data_root='data/VOCdevkit/VOC2007'",
            'seg_voc07, for PascalVOCDataset.',
        ),
        ("type='mmseg.ADE20KDataset'", 'seg_voc12, as it has none for ADE20KDataset.'),
    ],
)
def test_settings_follow_the_data(project, monkeypatch, capsys, data, entry):
    add(project / 'configs/stock.py', f'train_dataloader = dict(dataset=dict({data}))\n')
    use(monkeypatch, 'configs/stock.py', '--print', *PAPER)
    assert f"# Settings: preset 'paper', entry {entry}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    'data,entry',
    [
        ("'VOCDataset'", 'det_voc07, for VOCDataset'),
        ("'CocoDataset'", 'det_coco, for CocoDataset'),
        ("'CrowdHumanDataset'", 'det_coco, as it has none for CrowdHumanDataset'),
    ],
)
def test_settings_of_a_detector(data, entry):
    cfg = Config(
        dict(
            model=dict(type='RetinaNet'),
            train_dataloader=dict(dataset=dict(datasets=[dict(type=eval(data))])),
        )
    )
    assert preset_entry(cfg)[1] == entry


@pytest.mark.parametrize(
    'data, entry',
    [('CIFAR100', 'cls_cifar'), ('ImageNet', 'cls_imagenet'), ('CUB', 'cls_imagenet')],
)
def test_settings_of_a_classifier(data, entry):
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(type='ImageClassifier'),
            train_dataloader=dict(dataset=dict(type='KFoldDataset', dataset=dict(type=data))),
        )
    )
    assert preset_entry(cfg)[0] == entry


def test_base_that_inherits_from_a_host(project, monkeypatch):
    """mmengine marks what comes from a host with its scope; a list that is taken over element by
    element keeps working.
    """
    (project / 'configs/stock.py').write_text(
        "_base_ = 'mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py'\n"
        "custom_hooks = [dict(type='EMAHook')]\n"
    )
    found = model_of(monkeypatch, *PAPER)
    assert [hook.type for hook in found.custom_hooks] == ['EMAHook', 'AFANHook']
    assert found.model.neck.base == 'FPN' and found.model.neck.in_channels == [256, 512, 1024, 2048]
    stock = Config.fromfile('configs/stock.py')
    assert config_file.same(found.model.decode_head, stock.model.decode_head)


REFUSED = {
    'config.py': (
        ['gone.py'],
        'config must be a file or a name such as mmdet::NAME, but got gone.py',
    ),
    'name': (['mmseg::fcn/gone.py'], 'cannot read config mmseg::fcn/gone.py'),
    'package': (['mmgone::fcn/gone.py'], 'cannot read config mmgone::fcn/gone.py'),
    'not a config': (['configs/broken.py'], 'cannot read config .*broken.py: SyntaxError'),
    'lazy': (['configs/lazy.py'], 'cannot read config configs/lazy.py: ConfigParsingError'),
    'lazy address': (
        ['configs/not-a-name.py', *PAPER],
        'folders and file must have names that Python can import .*configs/not-a-name',
    ),
    'import': (['configs/import.py'], 'cannot read config .*import.py: ImportError'),
    'suffix': (
        ['configs/stock.py', '--out', 'new/afan.txt'],
        '--out must end in .py, but got new/afan.txt',
    ),
    'folder': (
        ['configs/stock.py', '--out', 'gone/afan.py'],
        '--out must be in a folder that exists, but got gone/afan.py',
    ),
    'itself': (
        ['configs/stock.py', '--out', 'configs/stock.py', '--force'],
        '--out must be another file than the config',
    ),
    'sites': (
        ['configs/stock.py', '--sites', 'nek'],
        "stock.py cannot be converted: sites must be .* got 'nek'",
    ),
    'setting': (
        ['configs/stock.py', '--interval', '0'],
        'cannot be converted: interval must be an integer >= 1, but got 0',
    ),
    'converted': (
        ['configs/afan.py'],
        'afan.py cannot be converted: the config is an A-FAN config already',
    ),
    'data alone': (
        ['configs/data.py'],
        'data.py cannot be converted: model must be a dict with a type, but got None',
    ),
}
OTHERS = {
    'broken.py': 'model = dict(',
    'lazy.py': 'from mmengine.config import read_base\nwith read_base():\n    from .stock import '
    '*\n',
    'not-a-name.py': 'from torch.nn import Module\nmodel = dict(type="EncoderDecoder", '
    "decode_head=dict(type='FCNHead', in_channels=4, channels=4, num_classes=2))\n"
    "default_scope = 'mmseg'\noptim_wrapper = dict(optimizer=dict(type='SGD'))",
    'import.py': "custom_imports = dict(imports=['gone'], allow_failed_imports=False)",
    'data.py': 'data = 1',
    'afan.py': "_base_ = './stock.py'\nmodel = dict(decode_head=dict(type='AFANDecodeHead', "
    "base='FCNHead'))",
}


PURE_MODEL = """
from mmseg.models.backbones import ResNetV1c
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.decode_heads import FCNHead
from mmseg.models.segmentors import EncoderDecoder

model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, size=(64, 64), pad_val=0, seg_pad_val=255),
    backbone=dict(type=ResNetV1c, depth=18),
    decode_head=dict(type=FCNHead, in_channels=512, in_index=3, channels=128, num_classes=19))
"""
PURE = """
from mmengine.config import read_base

with read_base():
    from .model import *

from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from torch.optim import SGD

default_scope = 'mmseg'
model.merge(dict(decode_head=dict(num_classes=3)))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))
custom_hooks = [dict(type=EMAHook, momentum=1e-4)]
"""


@pytest.mark.parametrize('style', ['stock', 'pure'])
def test_the_run_of_the_stock_config_is_left_alone(project, monkeypatch, capsys, style):
    """Its work folder would get the new run's checkpoints, and be what that goes on from."""
    stock = project / f'configs/{style}.py'
    (project / 'configs/model.py').write_text(PURE_MODEL)
    (project / 'configs/pure.py').write_text(PURE)
    use(monkeypatch, stock, '--out', 'new/afan.py', *PAPER)  # it sets neither
    assert 'work_dir' not in (project / 'new/afan.py').read_text()
    add(stock, "work_dir = 'runs/stock'\nresume = True\nload_from = 'weights.pth'\n")
    use(monkeypatch, stock, '--out', 'new/afan.py', '--force', *PAPER)
    text, told = (project / 'new/afan.py').read_text(), capsys.readouterr().out
    assert "work_dir = 'work_dirs/afan'\nresume = False\n" in text
    for note in ('work_dir is its own: in that of', 'resume is False: there is no run with A-FAN'):
        assert note in text and note in told
    found = training_config('new/afan.py')
    assert (found.work_dir, found.resume) == ('work_dirs/afan', False)
    assert found.load_from == 'weights.pth'  # to train on from is no run


@pytest.mark.parametrize('scope', ['mmseg', None])
@pytest.mark.parametrize('preset', ['paper', pytest.param('recommended', marks=counts_operations)])
def test_pure_python_style(project, monkeypatch, preset, scope):
    """Its classes say which library they are of, so that it needs no scope."""
    (project / 'configs/model.py').write_text(PURE_MODEL)
    (project / 'configs/pure.py').write_text(PURE.replace("'mmseg'", repr(scope)))
    options = PAPER if preset == 'paper' else ()  # which is the default
    use(monkeypatch, 'configs/pure.py', '--out', 'new/afan.py', '--epsilon', '0.1', *options)
    text = (project / 'new/afan.py').read_text()
    assert 'with read_base():\n    from ..configs.pure import *\n' in text
    assert not [line for line in text.splitlines() if line.startswith(('_base_', 'custom_imports'))]
    found, stock = Config.fromfile('new/afan.py'), Config.fromfile('configs/pure.py')
    assert found.optim_wrapper.type is afan_mm.AFANOptimWrapper
    assert found.optim_wrapper.optimizer == stock.optim_wrapper.optimizer
    assert [hook.type.__name__ for hook in found.custom_hooks] == ['EMAHook', 'AFANHook']
    assert found.model.neck.type is afan_mm.AFANNeckWrapper and found.model.neck.base is None
    head = found.model.decode_head
    assert head.type is afan_mm.AFANDecodeHead and head.base is stock.model.decode_head.type
    assert head.afan.epsilon == 0.1 and head.num_classes == 3
    config_file.check_same(found, converted(stock, preset=preset, epsilon=0.1))
    with pytest.raises(UsageError, match='an A-FAN config already'):
        use(monkeypatch, 'new/afan.py', '--out', 'new/twice.py')


@pytest.mark.parametrize(
    'text, pure',
    [
        ('import math', None),
        ('from os import path as osp', None),
        ('import math\nimport mmseg', True),
        ('from .model import model', True),
        (PURE, True),
    ],
)
def test_an_import_of_the_standard_library_is_no_style(tmp_path, monkeypatch, text, pure):
    """As in a virtual environment outside of which mmengine finds the library."""
    monkeypatch.setattr(Config, '_is_lazy_import', staticmethod(lambda file: True))
    file = tmp_path / 'config.py'
    file.write_text(text)
    if pure:
        assert is_pure_python(str(file))
    else:
        with pytest.raises(ConversionError, match='does not know .*write _base_ = .. above'):
            is_pure_python(str(file))


@pytest.mark.parametrize('case', sorted(REFUSED))
def test_refused(project, monkeypatch, case):
    for name, text in OTHERS.items():
        (project / 'configs' / name).write_text(text)
    before = files(project)
    arguments, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        use(monkeypatch, *arguments)
    assert files(project) == before


@pytest.mark.parametrize(
    'option,message',
    [
        (
            ['--epsilon', 'big'],
            "argument --epsilon: must be a number or a quotient such as 0.4/255, but got 'big'",
        ),
        (['--epsilon', '1/0'], "but got '1/0'"),
        (['--preset', 'best'], 'argument --preset: invalid choice'),
    ],
)
def test_refused_option(option, message, capsys):
    with pytest.raises(SystemExit) as error:
        tool.parse_args(['stock.py', *option])
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_refusal_is_one_line_and_exit_code_2(project):
    (project / 'configs/stock.py').write_text("model = dict(type='Gone')\n")
    process = subprocess.run(
        [python(), str(TOOLS / 'convert_config.py'), 'configs/stock.py'],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )
    assert process.returncode == 2 and 'Traceback' not in process.stderr
    assert process.stderr.splitlines()[-1].startswith(
        'convert_config.py: error: configs/stock.py cannot be converted: model.type must be a '
        "registered model, but got 'Gone'"
    )


def test_text_that_does_not_read_back_is_not_written(project, monkeypatch):
    monkeypatch.setattr(config_file, 'config_text', lambda *args: WRITTEN.replace('0.3', '0.2'))
    before = files(project)
    with pytest.raises(
        UsageError,
        match='does not read back as it should in model; nothing was written',
    ):
        use(monkeypatch, 'configs/stock.py', '--out', 'new/afan.py', *PAPER)
    assert files(project) == before


def test_an_import_that_may_be_missing(project, monkeypatch):
    add(
        project / 'configs/stock.py',
        "custom_imports = dict(imports=['gone'], allow_failed_imports=True)\n",
    )
    use(monkeypatch, 'configs/stock.py', '--out', 'new/afan.py', *PAPER)
    found = Config.fromfile('new/afan.py').custom_imports
    assert found == dict(imports=['gone', 'afan_mm'], allow_failed_imports=True)


def test_text_that_cannot_be_read_is_not_written(project, monkeypatch):
    monkeypatch.setattr(
        config_file, 'config_text', lambda *args: WRITTEN.replace('afan_mm', 'gone')
    )
    before = files(project)
    with pytest.raises(
        UsageError,
        match='^the new config cannot be read: ImportError: .*gone.*; nothing was written$',
    ):
        use(monkeypatch, 'configs/stock.py', '--out', 'new/afan.py', *PAPER)
    assert files(project) == before


DEFINED = """
_base_ = []
def scaled(x):
    return 2 * x
class Own:
    pass
parts = dict(function=scaled, other=lambda x: x, type=Own)
"""


def test_what_a_config_defines_reads_back(tmp_path):
    (tmp_path / 'config.py').write_text(DEFINED)
    one, other = (Config.fromfile(str(tmp_path / 'config.py')) for _ in range(2))
    assert one.parts.function is not other.parts.function and one.parts.type != other.parts.type
    config_file.check_same(one, other)


def test_another_class_does_not_read_back():
    one, other, third = (
        Config(dict(model=dict(type=kind))) for kind in (FCNHead, PSPHead, lambda x: x)
    )
    config_file.check_same(one, one)
    for wrong in (other, third):
        with pytest.raises(UsageError, match='does not read back as it should in model'):
            config_file.check_same(wrong, one)


@pytest.mark.parametrize(
    'value, text',
    [
        ('abcd', '[*_base_.x, dict(n=9)]'),
        ('Abcd', '[dict(_base_.x[0], m=5), *_base_.x[1:], dict(n=9)]'),
        ('aBcd', '[*_base_.x[:1], dict(_base_.x[1], m=5), *_base_.x[2:], dict(n=9)]'),
        ('abcD', '[*_base_.x[:3], dict(_base_.x[3], m=5), dict(n=9)]'),
    ],
)
def test_a_list_repeats_no_more_of_the_stock_one_than_it_changes(value, text):
    stock = [dict(n=i) for i in range(4)]
    new = [dict(n=i, m=5) if each.isupper() else dict(n=i) for i, each in enumerate(value)]
    conversion = Conversion(dict(x=[*new, dict(n=9)]), [], [], [])
    assert config_text('x.py', dict(x=stock), conversion).splitlines()[2] == f'x = {text}'


@pytest.mark.parametrize('value', [(), (1,), (1, 2), [], [()], dict(levels=())])
def test_sequences_are_written_as_they_are(value):
    cfg = Config(dict(model=dict()))
    text = config_text('x.py', cfg, Conversion(dict(stated=value), [], [], []))
    found = {}
    exec(text, found)
    assert found['stated'] == value


def test_what_a_config_cannot_state(project):
    cfg = Config.fromfile('configs/stock.py')
    conversion = convert(cfg, preset='paper', optim_wrapper=dict(clean_weight=object))
    with pytest.raises(ConversionError, match="a config cannot state <class 'object'>"):
        config_text('./configs/stock.py', cfg, conversion)


# What the first config of some folders is, in place of a config that can be converted.
REASONS = (
    'model must be a dict with a type',  # a part of a config
    'has no optim_wrapper',  # a tracker that is only evaluated
    'mmpretrain',  # a library that may not be there
    'takes no neck',  # Mask2FormerVideo, BaseReID
    'Detectron2Wrapper with none of',
    'must be a class',  # models of language and vision, whose packages are not there
    'in the inheritance',  # a config that inherits from one in the pure Python style
    "KeyError: 'test_pipeline'",  # one that mmengine cannot read
)


@pytest.mark.parametrize('host,least', [('mmdet', 100), ('mmseg', 45), ('mmpretrain', 69)])
def test_every_family(host, least):
    """The first config of every folder: what is written loads back as the intended merge, or the
    refusal says why.
    """
    if host == 'mmpretrain':
        pytest.importorskip('mmpretrain')
    root = Path(importlib.util.find_spec(host).origin).parent / '.mim' / 'configs'
    read, reasons = 0, {}
    for folder in sorted(
        path for path in root.iterdir() if path.is_dir() and path.name != '_base_'
    ):
        path = sorted(path for path in folder.rglob('*.py') if '_base_' not in path.parts)[0]
        try:
            cfg = config_file.read_stock(str(path))
            conversion = convert(cfg, preset='paper', epsilon=0.1, num_strengths=2)
            text = config_text(str(path), cfg, conversion)
        except (ConversionError, UsageError) as error:
            reasons[folder.name] = str(error)
            continue
        config_file.check_same(config_file.read_text(text), inherit(cfg, conversion.overrides))
        assert len(text.splitlines()) < 40 and all(
            len(line) <= 120 for line in text.splitlines() if path.name not in line
        )
        read += 1
    assert read >= least
    assert not {
        name: reason
        for name, reason in reasons.items()
        if not any(known in reason for known in REASONS)
    }
