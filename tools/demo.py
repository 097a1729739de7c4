"""Train, evaluate and draw both A-FAN demos on generated digits: python tools/demo.py, or make demo

Every step is a command that could be typed by hand, and is printed. The two tasks run beside each
other, one thread each, which on two cores is faster than one after the other. Results:
work_dirs/demo/summary.json with the libraries' own metrics as fractions, and a few validation
images per task, ground truth on the left and prediction on the right.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Union

import mmcv

ROOT = Path(__file__).resolve().parent.parent
DATA = Path('data/digits')
OUT = Path('work_dirs/demo')
SEGMENTATION = 'configs/deeplabv3plus/afan_deeplabv3plus_r18-d8_1xb8-300_digits-96x96.py'
DETECTION = 'configs/faster_rcnn/afan_faster-rcnn_r18_fpn_1xb4-280_digits.py'
NUM_DRAWN = 6
DRAWN_EVERY = 20  # of the validation images; mmdet draws all
NOT_METRICS = ('time', 'data_time')  # the libraries log them beside the metrics


class StageError(Exception):
    """One stage of the demo failed; the message says which."""


def run(tool: str, *arguments: Any, label: str = 'data') -> None:
    """Run one of the repository's tools from the repository's root, where the configs expect their
    data.
    """
    command = [sys.executable, f'tools/{tool}', *map(str, arguments)]
    print(f'[{label}] $ python', *map(shlex.quote, command[1:]), flush=True)
    process = subprocess.Popen(
        command,
        cwd=str(ROOT),
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors='replace',
    )
    with process:
        for line in process.stdout:
            print(f'[{label}] {line}', end='', flush=True)
    if process.returncode != 0:
        raise StageError(f'tools/{tool} failed with exit code {process.returncode}')


def is_complete(data: Path) -> bool:
    """Whether the devkit holds an image, boxes and a mask for everything that its index names."""
    index = data / 'ImageSets' / 'Main' / 'trainval.txt'
    if not index.is_file():
        return False
    parts = (('JPEGImages', '.jpg'), ('Annotations', '.xml'), ('SegmentationClass', '.png'))
    names = index.read_text().split()
    return bool(names) and all(
        (data / folder / (name + suffix)).is_file() for name in names for folder, suffix in parts
    )


def read_metrics(work_dir: Union[str, Path], scale: float) -> Dict[str, float]:
    """The metrics of the latest evaluation in a work folder, as fractions and without the
    libraries' prefixes.
    """
    files = sorted((ROOT / work_dir).glob('*/*.json'))
    if not files:
        raise StageError(f'no metrics were written to {work_dir}')
    found = json.loads(files[-1].read_text())
    return {
        key.split('/')[-1]: round(value * scale, 4)
        for key, value in found.items()
        if key not in NOT_METRICS
    }


def enlarge(drawn: Path, folder: Path) -> None:
    """Bring a few of the drawings, enlarged, from the library's folders within folders to ours."""
    paths = [path for path in sorted(drawn.rglob('*')) if path.suffix in ('.png', '.jpg')]
    if not paths:
        raise StageError(f'nothing was drawn in {drawn}')
    folder.mkdir()
    for path in paths[:: math.ceil(len(paths) / NUM_DRAWN)]:
        # Enlarged, or a person sees little of 96 pixels.
        mmcv.imwrite(
            mmcv.imrescale(mmcv.imread(str(path)), 4, interpolation='nearest'),
            str(folder / path.name),
        )
    shutil.rmtree(str(drawn))


def run_task(label: str, config: str, scale: float) -> Dict[str, float]:
    """Train, evaluate and draw one task; its metrics, which the library counts in units of
    ``scale``.
    """
    folder, drawn = OUT / label, ROOT / OUT / label / 'drawn'
    run('train.py', config, '--work-dir', folder, label=label)
    checkpoint = Path((ROOT / folder / 'last_checkpoint').read_text().strip()).relative_to(ROOT)
    run(
        'test.py',
        config,
        checkpoint,
        '--work-dir',
        folder / 'test',
        '--show-dir',
        drawn,
        '--cfg-options',
        f'default_hooks.visualization.interval={DRAWN_EVERY}',
        label=label,
    )
    enlarge(drawn, ROOT / folder / 'images')
    return read_metrics(folder / 'test', scale)


def what_next(args: argparse.Namespace) -> str:
    """Ten lines: commands to go on with, with the paths that the demo made."""
    checkpoint = Path((ROOT / OUT / 'segmentation' / 'last_checkpoint').read_text().strip())
    trained = f'{args.segmentation} {checkpoint.relative_to(ROOT)}'
    stock = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    few = '--cfg-options test_dataloader.dataset.indices=20'  # all would take eight minutes
    return f"""What next:
  source .venv/bin/activate             # then, what the perturbations did while training:
  afan health {OUT}/segmentation {OUT}/detection
  # a feature, clean and perturbed, in {OUT}/features:
  afan features {trained} --indices 1 --out-dir {OUT}/features
  # 20 images perturbed against the segmentor, and both predictions, in {OUT}/robust:
  afan test {trained} --robust --show-dir {OUT}/robust {few}
  # your own config, or one of a library, with A-FAN in it; afan train takes what this writes:
  afan convert {stock}
  # the rest: README.md, and the pages that make docs builds"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--segmentation', default=SEGMENTATION, metavar='CONFIG', help='default: %(default)s'
    )
    parser.add_argument(
        '--detection', default=DETECTION, metavar='CONFIG', help='default: %(default)s'
    )
    args = parser.parse_args()
    start = time.time()
    if (ROOT / OUT).exists():
        shutil.rmtree(str(ROOT / OUT))  # an old summary must not pass for this run's
    if not is_complete(ROOT / DATA):
        run('dataset_converters/digits_voc.py', DATA, '--overwrite')
    with ThreadPoolExecutor() as pool:
        tasks = {
            # mmseg reports per cent
            'segmentation': pool.submit(run_task, 'segmentation', args.segmentation, 0.01),
            'detection': pool.submit(run_task, 'detection', args.detection, 1.0),
        }
    summary = {label: task.result() for label, task in tasks.items()}
    summary['seconds'] = round(time.time() - start)
    text = json.dumps(summary, indent=2)
    (ROOT / OUT / 'summary.json').write_text(text + '\n')
    print(f'\n{text}\n\n{OUT}/summary.json; drawings in {OUT}/*/images\n\n{what_next(args)}')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        print('\ndemo.py: interrupted; the same command starts anew', file=sys.stderr)
        sys.exit(130)
    except (StageError, OSError) as error:
        sys.exit(f'demo failed: {error}')
