from .hooks import AFANHook
from .optim_wrapper import AFANAmpOptimWrapper, AFANOptimWrapper

__all__ = ['AFANAmpOptimWrapper', 'AFANHook', 'AFANOptimWrapper']
