"""How a model does on images that were perturbed to raise its loss or corrupted, how well its
confidence fits its accuracy, and how it does on each class.
"""

from .calibration import CalibrationMetric
from .corruption_loop import CorruptionTestLoop
from .corruptions import CommonCorruption, CorruptionError
from .detection_calibration import DetectionCalibrationMetric
from .loop import RobustTestLoop
from .per_class import PerClassMetric
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
    'PerClassMetric',
    'PixelAttack',
    'RobustTestLoop',
]
