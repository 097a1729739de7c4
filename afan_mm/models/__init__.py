"""The components that put a site into a neck, a decode head, a RoI head, a classifier or a whole
model.
"""

from .cls_head import AFANClsHead
from .decode_head import AFANDecodeHead
from .host import AFANModel
from .neck import AFANNeckWrapper
from .roi_head import AFANRoIHead

__all__ = ['AFANClsHead', 'AFANDecodeHead', 'AFANModel', 'AFANNeckWrapper', 'AFANRoIHead']
