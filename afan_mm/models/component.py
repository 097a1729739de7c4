"""What the three components share: they *are* the stock component, with a site in it."""

import difflib
import functools
from typing import Any, Dict, List, Optional, Sequence, Type, Union

from mmengine.registry import MODELS
from torch import nn

from ..settings import AFANSettings


class AFANComponent:
    """Base of a component that takes ``base='<stock type>'`` and otherwise the keys of the stock
    component.

    Building one gives an instance of a class derived from both the component and the stock class,
    so that parameter names, checkpoints and inference stay the stock ones, and ``isinstance`` holds
    for either.

    Args:
        base: The stock component: a registered name, or the class itself.
        afan: Settings of the site, see :class:`~afan_mm.AFANSettings`, or a list of such for
            several sites. Defaults to none: the paper's.
        kwargs: Arguments of the stock component.

    Attributes:
        afan: The settings; :class:`~afan_mm.AFANHook` knows a site by this attribute.
    """

    default_name: str
    allowed_base: str

    def __new__(cls, *args: Any, base: Union[str, type, None] = None, **kwargs: Any):
        # A copy calls __new__ of the derived class, which is complete already.
        return super().__new__(cls if issubclass(cls, nn.Module) else cls._derive(base))

    def __init__(
        self,
        *args: Any,
        base: Union[str, type, None] = None,
        afan: Optional[Any] = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.afan = self._read_settings({} if afan is None else afan)

    def _read_settings(
        self, afan: Union[dict, Sequence[dict]]
    ) -> Union[AFANSettings, List[AFANSettings]]:
        if isinstance(afan, (list, tuple)):
            return [self._read_site(each, alone=False) for each in afan]
        return self._read_site(afan)

    def _read_site(self, afan: dict, alone: bool = True) -> AFANSettings:
        if not isinstance(afan, dict):
            raise TypeError(
                f'afan of {type(self).__name__} must be a dict of settings, but got {afan!r}'
            )
        return AFANSettings.from_config(
            self._pop_options(dict(afan), alone), name=self.default_name
        )

    def _pop_options(self, afan: Dict[str, Any], alone: bool) -> Dict[str, Any]:
        """Take the options of this kind of component out of ``afan``; the rest are settings of the
        site. One that is not alone needs a name of its own.
        """
        return afan

    @classmethod
    def _stock_class(cls, base: Union[str, type, None]) -> Type[nn.Module]:
        found = find_model(base) if isinstance(base, str) else base
        if not isinstance(found, type) or not cls._accepts(found):
            raise TypeError(f'base of {cls.__name__} must be {cls.allowed_base}, but got {base!r}')
        return found

    @classmethod
    def _accepts(cls, stock: type) -> bool:
        raise NotImplementedError

    @classmethod
    def _derive(cls, base: Union[str, type, None]) -> type:
        return _derived(cls, cls._stock_class(base))

    def __reduce_ex__(self, protocol: int):
        """A copy in another process derives the class again, which no module has under a name."""
        state = self.__getstate__() if hasattr(self, '__getstate__') else self.__dict__
        return _instance, self.afan_parts, state


@functools.lru_cache(maxsize=None)
def _derived(component: type, stock: type) -> type:
    """One class for each pair, so that ``isinstance`` holds across builds."""
    return type(
        f'AFAN{stock.__name__}',
        (component, stock),
        dict(__module__=component.__module__, __doc__=stock.__doc__, afan_parts=(component, stock)),
    )


def _instance(component: type, stock: type) -> AFANComponent:
    derived = _derived(component, stock)
    return derived.__new__(derived)


def find_model(name: str) -> type:
    """A model class by its registered name: in the scope of the running config first, then
    anywhere.
    """
    with MODELS.switch_scope_and_registry(None) as registry:
        found = registry.get(name)
    registries = [MODELS, *MODELS.children.values()]
    for registry in registries:
        found = found or registry.get(name)
    if found is None:
        known = {key for registry in registries for key in registry.module_dict}
        close = difflib.get_close_matches(name, known, n=3)
        hint = f'; did you mean {" or ".join(map(repr, close))}?' if close else ''
        raise KeyError(f'base must be the type of a registered model, but got {name!r}{hint}')
    return found
