"""The virtual environment that tools/setup_env.py brings up. Standard library only."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

from probe_env import ROOT

# uv does not read pip's configuration: pip's keys, and the variables by which uv is told the same.
UV_VARIABLES = {
    'index-url': 'UV_DEFAULT_INDEX',
    'extra-index-url': 'UV_INDEX',
    'find-links': 'UV_FIND_LINKS',
    'constraint': 'UV_CONSTRAINT',
    'trusted-host': 'UV_INSECURE_HOST',
    'cert': 'SSL_CERT_FILE',
    'timeout': 'UV_HTTP_TIMEOUT',
    'default-timeout': 'UV_HTTP_TIMEOUT',
}
# keys that change nothing of what is installed
PIP_ONLY = ('disable-pip-version-check', 'cache-dir', 'no-cache-dir', 'progress-bar', 'quiet')


def translate_pip_settings(listing):
    """What ``pip config list`` says as uv's variables, None if some of it cannot be said to uv."""
    found = [re.fullmatch(r'(.*)\.([\w-]+)=(.*)', line) for line in listing.splitlines()]
    if None in found:
        return None
    lines = [each.groups() for each in found]
    variables = {'UV_INDEX_STRATEGY': 'unsafe-best-match'}  # all indexes alike, as pip has it
    for wanted in ('global', 'install', ':env:'):  # later ones win
        for key, value in (rest for section, *rest in lines if section == wanted):
            if key in UV_VARIABLES:
                separator = ',' if key == 'find-links' else ' '
                variables[UV_VARIABLES[key]] = separator.join(ast.literal_eval(value).split())
            elif key not in PIP_ONLY:
                return None
    return variables


class SetupError(Exception):
    """The environment could not be brought up; the message says why and what to do."""


class Environment:
    """A virtual environment: its interpreter, its pip and its probe."""

    def __init__(self, folder):
        self.folder = folder
        self.python = folder / 'bin' / 'python'
        # Another environment's paths must not leak in, nor a user's own packages hide a missing
        # one.
        hidden = ('PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX')
        self.variables = {key: value for key, value in os.environ.items() if key not in hidden}
        self.variables.update(PYTHONNOUSERSITE='1', PIP_DISABLE_PIP_VERSION_CHECK='1')

    def is_usable(self):
        """Whether its interpreter runs, is of the version asked for now, lives in this folder and
        has pip.
        """
        code = 'import pip._internal.cli.main, sys; print(sys.version_info[:2] + (sys.prefix,))'
        wanted = sys.version_info[:2] + (str(self.folder),)
        try:
            answer = self._ask('-c', code)
        except OSError:
            return False
        return answer.returncode == 0 and answer.stdout.decode().strip() == str(wanted)

    def create(self):
        """Make it anew, whatever was there."""
        if self.folder.is_symlink() or self.folder.is_file():
            self.folder.unlink()
        elif self.folder.exists():
            shutil.rmtree(str(self.folder))
        subprocess.run([sys.executable, '-m', 'venv', str(self.folder)], check=True)

    def probe(self, *parts):
        """What tools/probe_env.py says of these parts, or of everything at once, as part ->
        complaint.
        """
        answer = self._ask(str(ROOT / 'tools' / 'probe_env.py'), *parts)
        lines = answer.stdout.decode().splitlines()
        # a broken library may take the interpreter down with it
        if answer.returncode != 0 or not lines:
            return dict.fromkeys(
                parts or ['all'], f'its probe died (exit code {answer.returncode})'
            )
        return json.loads(lines[-1])

    def describe_torch(self):
        answer = self._ask(str(ROOT / 'tools' / 'probe_env.py'), '--torch')
        return json.loads(answer.stdout.decode().splitlines()[-1])

    def install(self, arguments, **variables):
        """Run pip install, showing the command."""
        print(
            '+',
            *(f'{key}={value}' for key, value in variables.items()),
            'pip install',
            *arguments,
            flush=True,
        )
        # Python compiles what it imports; to compile all of torch and scipy takes half a minute.
        command = [str(self.python), '-m', 'pip', 'install', '--no-compile', *arguments]
        if (
            subprocess.run(command, cwd=str(ROOT), env={**self.variables, **variables}).returncode
            != 0
        ):
            raise SetupError(
                'pip failed, see above. What is already installed is kept: mend that and run this '
                'again. '
                f'To start from nothing, remove {self.folder.name} first.'
            )

    def install_quickly(self, arguments):
        """Install what is not there yet by uv, in a fifth of pip's time; whether that went well."""
        settings = translate_pip_settings(self._ask('-m', 'pip', 'config', 'list').stdout.decode())
        if settings is None:
            return False
        self._ask('-m', 'pip', 'install', 'uv>=0.5,<1')  # where that fails, so does the next
        print('+ uv pip install', *arguments, flush=True)
        command = [str(self.python), '-m', 'uv', 'pip', 'install', '--python', str(self.python)]
        # without a cache no file is shared with other environments: damage to one stays there
        done = subprocess.run(
            [*command, '--no-cache', '--quiet', *arguments],
            cwd=str(ROOT),
            env={**settings, **self.variables},
        )
        return done.returncode == 0

    def _ask(self, *arguments):
        # -I keeps the current folder, and this one, off the module path.
        return subprocess.run(
            [str(self.python), '-I', *arguments],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
