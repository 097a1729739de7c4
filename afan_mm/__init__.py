"""A-FAN (Adversarial Feature Augmentation and Normalization) for models that mmengine trains."""

# First: it says which versions are needed, before anything fails for want of them.
from . import versions  # noqa: F401  checks what is installed
from .checkpoint import allow_mmengine_checkpoints
from .datasets import seeded_subset  # noqa: F401  registers it
from .engine import AFANAmpOptimWrapper, AFANFeatureMapHook, AFANHook, AFANOptimWrapper
from .feature_cache import FeatureCache  # noqa: F401  registers it
from .models import AFANClsHead, AFANDecodeHead, AFANModel, AFANNeckWrapper, AFANRoIHead
from .pretrained import partly_frozen  # noqa: F401  registers it
from .robustness import RobustTestLoop  # noqa: F401  registers it
from .settings import AFANSettings
from .taps import is_recording, tap

__version__ = '0.1.0'
__all__ = [
    'AFANAmpOptimWrapper',
    'AFANClsHead',
    'AFANDecodeHead',
    'AFANFeatureMapHook',
    'AFANHook',
    'AFANModel',
    'AFANNeckWrapper',
    'AFANOptimWrapper',
    'AFANRoIHead',
    'AFANSettings',
    'is_recording',
    'tap',
]

# mmengine loads checkpoints with torch's default, which since torch 2.6 refuses what mmengine
# itself wrote.
allow_mmengine_checkpoints()
