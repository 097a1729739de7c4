"""Where the project and its parts are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
CONFIGS = ROOT / 'configs'
REAL_DATA = ROOT.parent / 'shared' / 'data'


DIGITS = dict(
    mmseg=ROOT / 'configs/deeplabv3plus/afan_deeplabv3plus_r18-d8_1xb8-300_digits-96x96.py',
    mmdet=ROOT / 'configs/faster_rcnn/afan_faster-rcnn_r18_fpn_1xb4-280_digits.py',
)


def is_for_a_cpu(path: Path) -> bool:
    """Whether a config is one of this project's own small ones, and none of the paper's."""
    return '_r18' in path.stem or 'lite0' in path.stem
