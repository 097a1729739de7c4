"""Run the core of the suite on other stacks than that of requirements.txt: nox -s oldest

A stack is a Python and a file of pins in tests/stacks. mmcv's operators are compiled as make setup
does it, so a stack takes about five minutes to build once and as long to run. Needs the Pythons
named here and nox, which is in the extra [dev].
"""

from pathlib import Path

import nox

PYTHONS = dict(oldest='3.8', common='3.10', newest='3.12', onedl='3.12')
# contracts, both hosts, conversion, checkpoints
CORE = (
    'tests/contracts',
    'tests/test_models',
    'tests/test_engine',
    'tests/test_conversion',
    'tests/test_checkpoint.py',
)
TRAININGS = (
    'deeplabv3plus/afan_deeplabv3plus_r18-d8_1xb8-300_digits-96x96.py',
    'faster_rcnn/afan_faster-rcnn_r18_fpn_1xb4-280_digits.py',
)

nox.options.default_venv_backend = 'venv'
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = []


def install(session: nox.Session, stack: str) -> None:
    """torch first, which mmcv's operators are compiled against; then mmcv, then what needs it."""
    file = Path('tests', 'stacks', f'{stack}.txt')
    lines = [line.split('#')[0].strip() for line in file.read_text().splitlines()]
    first = [line for line in lines if line.startswith(('torch', 'setuptools', 'numpy'))]
    rest = [line for line in lines if line and 'mmcv==' not in line]
    session.install('--no-compile', *first, 'wheel', 'ninja')
    session.run('python', 'tools/mmcv_wheel.py', str(file))
    session.install('--no-compile', '--no-build-isolation', *rest)
    session.install('--no-compile', '--no-deps', '-e', '.')


def test(session: nox.Session, stack: str) -> None:
    install(session, stack)
    session.env['OMP_NUM_THREADS'] = '1'
    session.run('python', '-m', 'afan_mm', 'env')
    session.run('python', '-m', 'pytest', '-q', *(session.posargs or CORE))
    data = Path('data', 'digits')
    if not data.exists():
        session.run('python', 'tools/dataset_converters/digits_voc.py', str(data))
    for config in TRAININGS:
        folder = Path('work_dirs', 'stacks', stack, Path(config).stem)
        options = ['train_cfg.max_iters=20', 'train_cfg.val_interval=20']
        session.run(
            *('python', 'tools/train.py', f'configs/{config}', '--work-dir', str(folder)),
            *('--cfg-options', *options),
        )


@nox.session(python=PYTHONS['oldest'])
def oldest(session: nox.Session) -> None:
    """The oldest versions stated."""
    test(session, 'oldest')


@nox.session(python=PYTHONS['common'])
def common(session: nox.Session) -> None:
    """Those of 2024."""
    test(session, 'common')


@nox.session(python=PYTHONS['newest'])
def newest(session: nox.Session) -> None:
    """The newest torch."""
    test(session, 'newest')


@nox.session(python=PYTHONS['onedl'])
def onedl(session: nox.Session) -> None:
    """The maintained fork of the hosts."""
    test(session, 'onedl')
