"""The optim wrappers that run the adversarial passes, and the hooks beside them."""

from .hooks import AFANFeatureMapHook, AFANHook
from .optim_wrapper import AFANAmpOptimWrapper, AFANOptimWrapper

__all__ = ['AFANAmpOptimWrapper', 'AFANFeatureMapHook', 'AFANHook', 'AFANOptimWrapper']
