"""Say what is wrong with the environment this runs in, as one JSON object: part of the set-up ->
complaint, '' if sound.

tools/setup_env.py runs it with the virtual environment's own interpreter, which need not have
anything installed but pip, hence the late imports. Usage: python -I tools/probe_env.py [part ...]
With --torch it describes torch instead.
"""

import importlib
import importlib.util
import json
import platform
import re
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What each part of the set-up installs and the modules that show that it works. A part that
# installs '*' owns every line of requirements.txt which no other part names.
PARTS = {
    'torch': (['torch', 'torchvision'], ['torchvision.ops']),
    'build': (['setuptools', 'wheel', 'ninja'], []),
    'opencv': (['opencv-python'], ['cv2']),
    'libraries': (
        ['*'],
        [
            'mmengine',
            'timm',
            'ftfy',
            'regex',
            'scipy.ndimage',
            'sklearn.datasets',
            'skimage.draw',
            'imagecorruptions',
            'submitit',
            'torch.utils.tensorboard',
            'pytest',
        ],
    ),
    'mmcv': (['mmcv'], ['mmcv.ops']),
    'hosts': (
        ['mmdet', 'mmsegmentation', 'mmpretrain'],
        ['mmdet.apis', 'mmseg.apis', 'mmpretrain.apis'],
    ),
}


def read_requirements():
    """requirements.txt as a dict from each bare name to its line, in the order of the file."""
    lines = (
        line.split('#')[0].strip() for line in (ROOT / 'requirements.txt').read_text().splitlines()
    )
    return {re.match(r'[\w.-]+', line).group(): line for line in lines if line}


def select_requirements(part):
    """What one part of the set-up installs, as lines of requirements.txt."""
    lines = read_requirements()
    names = PARTS[part][0]
    if names == ['*']:
        taken = {name for others, _ in PARTS.values() for name in others}
        names = [name for name in lines if name not in taken]
    return [lines[name] for name in names]


def probe_part(part):
    """Versions first, then imports: neither shows what the other does."""
    # the only parser in a bare environment
    from pip._vendor.packaging.requirements import Requirement

    for needed in map(Requirement, select_requirements(part)):
        try:
            version = metadata.version(needed.name)
            sound = needed.specifier.contains(version, prereleases=True)
        except Exception:  # not there, or its metadata is a fragment
            return f'{needed.name} is not installed'
        if not sound:
            return f'{needed.name} is {version}, needed is {needed.specifier}'
    for module in PARTS[part][1]:
        try:
            importlib.import_module(module)
        except Exception as error:  # a half-copied package fails in any way it likes
            return f'import {module}: {type(error).__name__}: {error}'
    return ''


def probe_files():
    """name==version of each package with missing or truncated files: what an interrupted pip leaves
    behind.
    """
    installed = {d.metadata['Name']: d for d in metadata.distributions() if d.metadata['Name']}
    # shares its folder with opencv-python, whose files it replaced
    if 'opencv-python-headless' in installed:
        installed.pop('opencv-python', None)
    damaged = [
        f'{name}=={d.version}'
        for name, d in installed.items()
        if d.files is None or not all(map(is_whole, d.files))
    ]
    return ' '.join(sorted(damaged))


def is_whole(file):
    """Whether an installed file is there and not cut short; longer is fine, someone may be
    debugging it.
    """
    path = Path(file.locate())
    if path.suffix == '.pyc':  # pip lists them, Python rewrites them
        return True
    return path.exists() and path.stat().st_size >= (file.size or 0)


def probe_package():
    """Check that `import afan_mm` finds this checkout. Isolated mode (-I) keeps the current folder
    out of the answer.
    """
    spec = importlib.util.find_spec('afan_mm')
    if spec is None:
        return 'afan_mm is not installed'
    found = Path(list(spec.submodule_search_locations)[0]).resolve()
    return '' if found == ROOT / 'afan_mm' else f'afan_mm is installed from {found.parent}'


def describe_torch():
    """What decides how an extension of torch is compiled, and where the outcome can be used."""
    import torch

    mlu = getattr(torch, 'is_mlu_available', bool)
    mps = getattr(torch.backends, 'mps', None)
    devices = {
        'CUDA': torch.cuda.is_available(),
        'ROCm': torch.version.hip is not None,
        'MLU': mlu(),
        'MPS': mps is not None and mps.is_available(),
    }
    return {
        'torch': torch.__version__,
        'python': sysconfig.get_config_var('SOABI') or sys.implementation.cache_tag,
        'platform': '-'.join([sysconfig.get_platform(), *platform.libc_ver()]).strip('-'),
        'devices': [name for name, found in devices.items() if found],
    }


def main():
    if sys.argv[1:] == ['--torch']:
        print(json.dumps(describe_torch()))
        return
    probes = {'files': probe_files, 'package': probe_package}
    parts = sys.argv[1:] or ['files', *PARTS, 'package']
    print(
        json.dumps({part: probes[part]() if part in probes else probe_part(part) for part in parts})
    )


if __name__ == '__main__':
    main()
