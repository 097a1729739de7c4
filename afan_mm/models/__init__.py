"""The components that put a site into a neck, a decode head, a RoI head or a classifier."""

from .cls_head import AFANClsHead
from .decode_head import AFANDecodeHead
from .neck import AFANNeckWrapper
from .roi_head import AFANRoIHead

__all__ = ['AFANClsHead', 'AFANDecodeHead', 'AFANNeckWrapper', 'AFANRoIHead']
