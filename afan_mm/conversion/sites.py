"""Sites of a host, by the names that a user gives them."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..models import AFANClsHead, AFANDecodeHead, AFANRoIHead
from .host import ConversionError, Host

HEADS = {'decode_head': AFANDecodeHead, 'roi_head': AFANRoIHead, 'head': AFANClsHead}
NECK_SITES = {'neck': 'input', 'input': 'input', 'output': 'output'}


class Sites(NamedTuple):
    """Sites that were asked for.

    Attributes:
        neck: Those of the neck wrapper.
        head: Those of the head, ``''`` for the one that suits it.
        asked: Whether by name.
        levels: Of sites of the neck wrapper, where they are known; (-1,): need not be stated.
        settings: That their features ask for, where there are any.
        reasons: Why these, where there is more to say than that they were asked for.
    """

    neck: List[str]
    head: List[str]
    asked: bool = True
    levels: Dict[str, Tuple[int, ...]] = {}
    settings: Dict[str, Dict[str, Any]] = {}
    reasons: Dict[str, str] = {}


def read_sites(names: Optional[Sequence[str]], host: Host) -> Sites:
    """Sites by the names that a user gives them."""
    if names is None:
        return Sites(['input'], [''], asked=False)
    neck: List[str] = []
    heads: List[str] = []
    for name in names:
        first, _, rest = name.partition('.')
        if name in NECK_SITES:
            neck.append(NECK_SITES[name])
        elif name == 'head':
            heads.append('')
        elif rest and first in host.modules:
            if first in HEADS:
                heads.append(rest)
            else:
                neck.append(name)
        else:
            raise ConversionError(
                "sites must be 'neck', 'output', 'head', the path of a module of the host such as "
                "'backbone.layer3', or a site of its head such as 'roi_head.map'; got "
                f'{name!r} for a {host.cls.__name__} with {", ".join(host.modules)}'
            )
    if not neck + heads or any(len(set(part)) < len(part) for part in (neck, heads)):
        raise ConversionError(f'sites must be different ones, but got {", ".join(names)}')
    return Sites(neck, heads)
