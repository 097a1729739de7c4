"""How a model does on images that were perturbed to raise its loss or corrupted, and how well its
confidence fits its accuracy.
"""

from .calibration import CalibrationMetric
from .corruption_loop import CorruptionTestLoop
from .corruptions import CommonCorruption, CorruptionError
from .detection_calibration import DetectionCalibrationMetric
from .loop import RobustTestLoop
from .pixel_attack import PixelAttack
from .settings import AttackError, AttackSettings

__all__ = [
    'AttackError',
    'AttackSettings',
    'CalibrationMetric',
    'CommonCorruption',
    'CorruptionError',
    'CorruptionTestLoop',
    'DetectionCalibrationMetric',
    'PixelAttack',
    'RobustTestLoop',
]
