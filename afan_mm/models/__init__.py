"""The components that put a site into a neck, a decode head, a RoI head, a classifier or before
them all.
"""

from .cls_head import AFANClsHead
from .decode_head import AFANDecodeHead
from .model import AFANModel
from .neck import AFANNeckWrapper
from .roi_head import AFANRoIHead

__all__ = ['AFANClsHead', 'AFANDecodeHead', 'AFANModel', 'AFANNeckWrapper', 'AFANRoIHead']
