"""Ctrl-C in any tool: one line, which says how to go on, and exit code 130."""

import argparse
import runpy
import signal
import sys

import pytest

from support.paths import ROOT, TOOLS

ANEW = 'the same command starts anew'
GOES_ON = 'the same command goes on'
# What is done when it is interrupted is kept by these alone.
WORDS = {
    'train': '--resume goes on from the last checkpoint in the work folder',
    'test': f'{ANEW}, with --robust it goes on',
    'experiment': GOES_ON,
    'hessian': GOES_ON,
    'landscape': GOES_ON,
    'robustness_curve': GOES_ON,
    'sweep_zoo': GOES_ON,
    'setup_env': GOES_ON,
    'quick': GOES_ON,
}
# no command of a user's; over in a moment
LEFT_OUT = ('probe_env', 'plain_torch')
START = "if __name__ == '__main__':"
COMMANDS = {
    path.stem: path
    for path in [*TOOLS.rglob('*.py'), *(ROOT / 'examples').rglob('*.py')]
    if START in path.read_text() and path.stem not in LEFT_OUT
}


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize('name', sorted(COMMANDS))
def test_a_line_and_130(name, monkeypatch, capsys):
    path = COMMANDS[name]
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', interrupt)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)  # the handlers are this process's
    monkeypatch.setattr(sys, 'argv', [str(path)])
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stopped:  # or pytest itself would end
        runpy.run_path(str(path), run_name='__main__')
    assert stopped.type is SystemExit and stopped.value.code == 130
    words = WORDS.get(name, ANEW)
    assert capsys.readouterr().err.splitlines() == ['', f'{name}.py: interrupted; {words}']


@pytest.mark.parametrize('name', sorted(COMMANDS))
def test_what_a_tool_says_of_itself_is_what_it_says_then(name):
    above = COMMANDS[name].read_text().partition(START)[0]
    assert ('goes on' in ' '.join(above.split())) == ('goes on' in WORDS.get(name, ANEW))


def test_every_command_is_there():
    assert WORDS.keys() <= COMMANDS.keys() and len(COMMANDS) >= 20
