"""``afan COMMAND``: the tools of the repository, wherever the package is installed."""

import argparse
import sys
from typing import List, Optional, Sequence

from ..environment import collect_env
from ..utils.files import shipped

# Each command is one of the tools, with the same options.
TOOLS = {
    'train': ('train.py', 'train a model'),
    'test': ('test.py', 'evaluate a model; --robust perturbs the images against it'),
    'convert': ('convert_config.py', 'write the A-FAN config of a stock one'),
    'health': ('analysis_tools/plot_health.py', 'is a perturbation too weak, or too strong?'),
    'experiment': ('experiment.py', 'train arms x seeds, and compare them with statistics'),
    'benchmark': ('analysis_tools/benchmark.py', 'what a training step costs with A-FAN'),
    'curve': (
        'analysis_tools/robustness_curve.py',
        'robust figures over the strength of the attack',
    ),
    'hessian': ('analysis_tools/hessian.py', 'curvature of the training loss'),
    'landscape': ('analysis_tools/landscape.py', 'the loss over a line or a plane of weights'),
    'sharpness': ('analysis_tools/sharpness.py', 'how the loss rises around the features'),
    'ablation': ('analysis_tools/ablation.py', 'draw the arms of an experiment'),
    'gains': ('analysis_tools/gains.py', 'the difference of two arms in several experiments'),
    'features': ('visualization/feature_maps.py', 'draw clean, augmented and normalised features'),
}


def print_env(argv: Sequence[str]) -> None:
    """``afan env``: versions, devices and operators, what is missing and what to do."""
    argparse.ArgumentParser(prog='afan env', description=print_env.__doc__).parse_args(argv)
    print(collect_env())


def usage() -> str:
    """The commands, a line each."""
    said = {**{name: text for name, (_, text) in TOOLS.items()}, 'env': 'what this environment has'}
    lines = [f'  {name:<11}{text}' for name, text in said.items()]
    return '\n'.join(
        ['usage: afan COMMAND [options]', '', *lines, '', 'afan COMMAND -h: its options']
    )


def main(argv: Optional[List[str]] = None) -> None:
    """Run one command.

    Args:
        argv: The command and its options. Defaults to those of the process.
    """
    name, *options = (sys.argv[1:] if argv is None else argv) or ['-h']
    if name in ('-h', '--help'):
        print(usage())
    elif name == 'env':
        print_env(options)
    elif name in TOOLS:
        script = shipped('tools') / TOOLS[name][0]
        sys.argv = [f'afan {name}', *options]
        # Not by runpy, which would put the path of the script in the place of the command.
        code = compile(script.read_bytes(), str(script), 'exec')
        exec(code, dict(__name__='__main__', __file__=str(script)))
    else:
        sys.exit(f'afan: no command {name!r}\n\n{usage()}')
