"""What a user mistypes about A-FAN in a config: one line, and before a model is built wherever the
config is enough.
"""

import copy
import subprocess

import pytest

from afan_mm.cli import command_line
from afan_mm.cli.config_check import check_config, check_model
from afan_mm.utils.errors import UsageError
from support.config_fuzz import small
from support.fast_python import python
from support.paths import TOOLS
from support.tools import configure_test, configure_train

NO_MODEL = (
    ('segmentor', lambda c: c.model.decode_head.pop('base'), r'model.decode_head: AFANDecodeHead: base of .* but got None; write base='),
    ('detector', lambda c: c.model.neck.pop('base'), r"model.neck: AFANNeckWrapper: without a base .*write base='<type of"),
    ('detector', lambda c: c.model.neck.update(epsilon=0.1), r'model.neck: AFANNeckWrapper: epsilon .* write afan=dict\(epsilon=0.1\)'),
    ('detector', lambda c: c.model.neck.update(levels=(0,)), r'model.neck: .* write afan=dict\(levels='),
    ('detector', lambda c: c.model.neck.afan.update(epsilon='x'), "model.neck: AFANNeckWrapper: epsilon must be a number or a quotient such as 0.4/255, but got 'x'"),
    ('detector', lambda c: c.model.neck.afan.update(epsilonn=1), "model.neck: .* no setting .'epsilonn'.; did you mean 'epsilon'"),
    ('detector', lambda c: c.model.neck.update(bse='FPN'), "model.neck: .*bse must be base, afan or an argument of FPN.* did you mean 'base'"),
    ('detector', lambda c: c.model.roi_head.afan.update(site='vectr'), "model.roi_head: AFANRoIHead: site must be one of .* but got 'vectr'"),
    ('segmentor', lambda c: c.model.update(backbone=dict(type='AFANNeckWrapper', base='ResNet', depth=18)), "must not be the backbone of a model, but got it at model.backbone; .*site='backbone.layer3'"),
    ('detector', lambda c: c.model.update(neck=dict(c.model.neck, type='FPN')), r"model.neck: .* write dict\(type='AFANNeckWrapper', ...\), but got type='FPN'"),
    ('detector', lambda c: c.model.neck.update(type='AFANNekWrapper'), "model.neck: type must be one of .*did you mean 'AFANNeckWrapper'"),
    ('detector', lambda c: c.optim_wrapper.update(clean_weight='complment'), "optim_wrapper: clean_weight must be .* but got 'complment'"),
    ('detector', lambda c: c.optim_wrapper.update(clean_wieght=1), "optim_wrapper: .* no argument 'clean_wieght'.*did you mean 'clean_weight'"),
    ('detector', lambda c: c.optim_wrapper.update(epsilon=1), 'optim_wrapper: .*epsilon.* for afan=dict'),
    ('detector', lambda c: c.optim_wrapper.update(type='OptimWrapper', clean_weight=1), 'optim_wrapper: clean_weight goes with AFANOptimWrapper'),
    ('detector', lambda c: c.custom_hooks[0].update(interval=0), r'custom_hooks\[0\]: interval of AFANHook must be'),
    ('detector', lambda c: c.optim_wrapper.update(type=None), "optim_wrapper: type must be the name of a registered .*, but got None"),
    ('detector', lambda c: c.optim_wrapper.update(type=''), "optim_wrapper: type must be the name of a registered .*, but got ''"),
    ('detector', lambda c: c.custom_hooks[0].update(type=None), r"custom_hooks\[0\]: type must be the name of a registered .*, but got None"),
    ('detector', lambda c: c.custom_hooks[0].update(type=''), r"custom_hooks\[0\]: type must be the name of a registered .*, but got ''"),
    ('detector', lambda c: c.custom_hooks[0].pop('type'), r"custom_hooks\[0\]: a hook needs a type, but got {'interval': "),
    ('detector', lambda c: c.default_hooks.update(logger=dict(type='AFANHok')), r"default_hooks.logger: type must be one of .*did you mean 'AFANHook'"),
    ('detector', lambda c: c.model.neck.update(base=''), "model.neck: AFANNeckWrapper: base must be the type of a registered model, but got ''"),
)  # fmt: skip
MODEL = (
    ('segmentor', lambda c: c.model.decode_head.afan.update(site='bottlenek'), "AFANDecodeHead of 'DepthwiseSeparableASPPHead': site .* but got 'bottlenek'; did you mean 'bottleneck'"),
    ('segmentor', lambda c: c.model.neck.afan.update(site='backbone.layer9'), "site must be .* but got 'backbone.layer9'; backbone has .*backbone.layer3"),
    ('segmentor', lambda c: c.model.neck.afan.update(levels=(7,)), r'levels must lie in \[-3, 2\]'),
    ('segmentor', lambda c: c.optim_wrapper.update(type='OptimWrapper'), 'has A-FAN sites .*AFANOptimWrapper'),
    ('segmentor', lambda c: c.optim_wrapper.update(clean_weight='complement'), 'needs adversarial losses whose weights sum to less than 1'),
    ('detector', lambda c: c.model.neck.pop('in_channels'), 'the model cannot be built: TypeError: .*in_channels'),
    ('detector', lambda c: c.model.neck.afan.update(name='roi_head'), 'are all named'),
)  # fmt: skip


@pytest.fixture(scope='module')
def configs():
    return {host: small(host) for host in ('segmentor', 'detector')}


@pytest.mark.parametrize('host, change, message', NO_MODEL)
def test_config_is_enough(host, change, message, configs):
    cfg = copy.deepcopy(configs[host])
    check_config(cfg)
    change(cfg)
    with pytest.raises(UsageError, match=message) as error:
        check_config(cfg)
    assert '\n' not in str(error.value)


def test_arguments_of_a_hook_are_its_own(configs):
    """RTMDet's second pipeline is of transforms, a profiler's handler of no registry at all."""
    cfg = copy.deepcopy(configs['detector'])
    flip = dict(type='RandomFlip', prob=0.5)
    augments = dict(type='Mixup', alpha=0.8)
    cfg.custom_hooks += [
        dict(type='PipelineSwitchHook', switch_epoch=2, switch_pipeline=[flip]),
        dict(type='mmpretrain.SwitchRecipeHook', schedule=[dict(train_augments=augments)]),
        dict(type='ProfilerHook', on_trace_ready=dict(type='tb_trace')),
    ]
    cfg.default_hooks = dict(profiler=dict(cfg.custom_hooks[-1]), checkpoint=None)
    check_config(cfg)


@pytest.mark.parametrize('host, change, message', MODEL)
def test_model_is_needed(host, change, message, configs):
    cfg = copy.deepcopy(configs[host])
    check_model(cfg)
    change(cfg)
    check_config(cfg)
    with pytest.raises(UsageError, match=message) as error:
        check_model(cfg)
    assert '\n' not in str(error.value)


def test_train_says_it_in_a_line_and_shows_no_config(configs, tmp_path):
    cfg = copy.deepcopy(configs['detector'])
    cfg.model.neck.afan.epsilon = 'x'
    cfg.dump(str(tmp_path / 'config.py'))
    result = subprocess.run(
        [python(), str(TOOLS / 'train.py'), str(tmp_path / 'config.py')],
        capture_output=True,
        text=True,
    )
    said = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 2 and 'Traceback' not in result.stderr and not result.stdout
    assert said.startswith(
        'train.py: error: model.neck: AFANNeckWrapper: epsilon must be a number or'
    )


def test_a_folder_that_cannot_be_written_is_found_before_work(configs, tmp_path):
    (tmp_path / 'file').write_text('')
    configs['detector'].dump(str(tmp_path / 'config.py'))
    with pytest.raises(UsageError, match='--work-dir must be a folder that can be written'):
        configure_train(str(tmp_path / 'config.py'), '--work-dir', str(tmp_path / 'file' / 'run'))
    (tmp_path / 'weights.pth').write_bytes(b'')
    with pytest.raises(UsageError, match='--show-dir must be a folder that can be written'):
        configure_test(
            str(tmp_path / 'config.py'),
            str(tmp_path / 'weights.pth'),
            *('--work-dir', str(tmp_path / 'run'), '--show-dir', str(tmp_path / 'file' / 'a')),
        )


def test_ctrl_c_says_how_to_go_on(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        command_line.run(main, go_on='--resume goes on')
    assert stopped.value.code == 130
    assert capsys.readouterr().err.strip().endswith('interrupted; --resume goes on')


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line.run(lambda: 1 / 0)
    with pytest.raises(ValueError, match='not one of ours'):
        command_line.run(_raise)


def _raise():
    raise ValueError('not one of ours')
