"""The optim wrappers that run the adversarial passes, and the hooks beside them."""

from .feature_map_hook import AFANFeatureMapHook
from .hook import AFANHook
from .optim_wrapper import AFANAmpOptimWrapper, AFANOptimWrapper

__all__ = ['AFANAmpOptimWrapper', 'AFANFeatureMapHook', 'AFANHook', 'AFANOptimWrapper']
