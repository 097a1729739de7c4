"""The components that put a site into a neck, a decode head, a RoI head, a classifier or a whole
model, and before them all.
"""

from .cls_head import AFANClsHead
from .decode_head import AFANDecodeHead
from .host import AFANHost
from .model import AFANModel
from .neck import AFANNeckWrapper
from .roi_head import AFANRoIHead

__all__ = [
    'AFANClsHead',
    'AFANDecodeHead',
    'AFANHost',
    'AFANModel',
    'AFANNeckWrapper',
    'AFANRoIHead',
]
