from .decode_head import AFANDecodeHead
from .neck import AFANNeckWrapper
from .roi_head import AFANRoIHead

__all__ = ['AFANDecodeHead', 'AFANNeckWrapper', 'AFANRoIHead']
