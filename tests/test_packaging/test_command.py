"""The command ``afan``: which tools it runs, and what it says of an environment."""

import re
import sys

import pytest

from afan_mm import environment
from afan_mm.cli import main as command
from support.paths import ROOT


def test_every_command_is_a_tool_that_exists_and_is_listed(capsys):
    command.main(['--help'])
    said = capsys.readouterr().out
    for name, (script, text) in command.TOOLS.items():
        assert (ROOT / 'tools' / script).is_file() and (command.shipped('tools') / script).is_file()
        assert re.search(rf'^  {name} +{re.escape(text)}$', said, re.M)
    assert '  env ' in said


def test_unknown_command_ends_with_the_list():
    with pytest.raises(SystemExit, match=r"no command 'trian'(.|\n)*  train "):
        command.main(['trian'])


def test_options_reach_the_tool_as_on_its_own_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / 'train.py').write_text('import sys; print(__name__, sys.argv)')
    monkeypatch.setattr(command, 'shipped', lambda name: tmp_path)
    monkeypatch.setattr(sys, 'argv', ['afan', 'train', 'a.py', '--amp'])
    command.main()
    assert capsys.readouterr().out == "__main__ ['afan train', 'a.py', '--amp']\n"


@pytest.fixture
def without(monkeypatch):
    """An environment in which some modules cannot be imported."""

    def lack(*modules):
        find = environment._import_problem
        monkeypatch.setattr(
            environment,
            '_import_problem',
            lambda m: f"ModuleNotFoundError: No module named '{m}'" if m in modules else find(m),
        )

    return lack


def test_env_says_what_is_missing_and_what_to_do(without):
    without('mmcv.ops', 'matplotlib', 'mmseg')
    report = environment.collect_env()
    assert report.facts['mmcv.ops'].startswith('ModuleNotFoundError')
    assert report.facts['extra [plots]'] == 'missing matplotlib'
    advice = '\n'.join(report.advice)
    assert 'MMCV_WITH_OPS=1 pip install --no-build-isolation' in advice
    assert "plots of runs, costs and robustness: pip install 'afan_mm[plots]'" in advice
    assert 'segmentation needs mmsegmentation>=1.0,<2: ModuleNotFoundError' in advice
    assert str(report).endswith(report.advice[-1])


def test_env_names_every_extra_that_training_does_not_need():
    text = (ROOT / 'pyproject.toml').read_text()
    extras = text.split('[project.optional-dependencies]')[1].split('\n\n')[0]
    named = set(re.findall(r'^(\w+) = ', extras, re.M)) - {'docs', 'dev'}
    assert set(environment.EXTRAS) == named
