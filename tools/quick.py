"""A-FAN on a small classifier before anything is compiled: python tools/quick.py, or make quick

Installs into .venv what examples/digits_classifier.py needs, torch and mmengine first of all, and
runs it. `make setup` goes on from there. Standard library only.
"""

import argparse
import os
import subprocess
import sys
import time

from probe_env import ROOT, read_requirements
from setup_env import ensure
from virtual_env import Environment, SetupError

EXAMPLE = 'examples/digits_classifier.py'
NEEDED = {'mmengine': 'mmengine', 'scikit-learn': 'sklearn'}


def install(env):
    """Bring in what the example imports, pinned as in requirements.txt."""
    if not env.is_usable():
        print(f'creating {env.folder.name}', flush=True)
        env.create()
    for part in ('torch', 'opencv'):
        ensure(env, part)
    test = subprocess.run(
        [str(env.python), '-c', f'import {", ".join(NEEDED.values())}'],
        env=env.variables,
        stderr=subprocess.DEVNULL,
    )
    if test.returncode != 0:
        lines = read_requirements()
        env.install([*(lines[name] for name in NEEDED), '-c', 'requirements.txt'])


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    env = Environment(ROOT / '.venv')
    start = time.monotonic()
    install(env)
    ready = time.monotonic()
    print(f'$ python {EXAMPLE}', flush=True)
    variables = dict(env.variables, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    subprocess.run([str(env.python), EXAMPLE], cwd=str(ROOT), env=variables, check=True)
    ran = time.monotonic()
    print(
        f'installed in {ready - start:.0f} s, run in {ran - ready:.0f} s. '
        'The next step: make setup, source .venv/bin/activate, then the README'
    )


if __name__ == '__main__':
    os.chdir(str(ROOT))
    try:
        main()
    except KeyboardInterrupt:
        print('\nquick.py: interrupted; the same command goes on', file=sys.stderr)
        sys.exit(130)
    except (SetupError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f'quick failed: {error}')
