"""What the components share: they *are* the stock component, with a site in it."""

import difflib
import functools
import inspect
from dataclasses import fields
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Type, Union

from mmengine.registry import MODELS
from torch import nn

from ..settings import AFANSettings
from ..utils.errors import UsageError

SETTINGS = tuple(field.name for field in fields(AFANSettings))


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

    Raises:
        UsageError: With the component, the argument, what is allowed and what came.
    """

    default_name: str
    allowed_base: str
    options: Tuple[str, ...] = ()  # what afan may hold beside settings
    elsewhere: Tuple[str, ...] = ()  # parts of a model that it must not be
    advice: str = ''  # what to write instead

    def __new__(cls, *args: Any, base: Union[str, type, None] = None, **kwargs: Any):
        if not issubclass(cls, nn.Module):
            cls.check_config(dict(kwargs, base=base))
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
        try:
            self.afan = self.read_settings({} if afan is None else afan)
        except (TypeError, ValueError) as error:
            name = next(
                k.__name__
                for k in type(self).__mro__
                if issubclass(k, AFANComponent) and not issubclass(k, nn.Module)
            )
            raise UsageError(f'{name} of {base!r}: {error}') from error

    def read_settings(
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
        return AFANSettings.from_config(self.pop_options(dict(afan), alone), name=self.default_name)

    def pop_options(self, afan: Dict[str, Any], alone: bool) -> Dict[str, Any]:
        """Take the options of this kind of component out of ``afan``; the rest are settings of the
        site. One that is not alone needs a name of its own.
        """
        return afan

    @classmethod
    def check_config(cls, config: Dict[str, Any]) -> None:
        """Complain of what is wrong with the config of a component, as far as that shows before the
        component is built.

        Raises:
            UsageError: With the component, the argument, what is allowed and what came.
        """
        try:
            stock = cls.stock_class(config.get('base'))
            for key in config:
                if key not in ('type', '_scope_', 'base', 'afan'):
                    cls._check_key(key, config, stock)
            cls._check_afan(config.get('afan'))
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f'{cls.__name__}: {error.args[0]}') from error

    @classmethod
    def _check_key(cls, key: str, config: Dict[str, Any], stock: type) -> None:
        if parameter(stock, key) is not None:
            return
        if key in SETTINGS or key in cls.options:
            raise ValueError(
                f'{key} is said of the site: write afan=dict({key}={config[key]!r}), but got it '
                'beside afan'
            )
        if config.get('base') is None:
            raise ValueError(
                f"without a base it has no part to hand {key} to: write base='<type of the stock "
                f"component>', but got {key}={config[key]!r} alone"
            )
        hint = did_you_mean(key, ('base', 'afan', *inspect.signature(stock.__init__).parameters))
        own = vars(next(c for c in stock.__mro__ if '__init__' in vars(c)))['__init__']
        kinds = {p.kind for p in inspect.signature(own).parameters.values()}
        # one with **kwargs may know a key that no signature shows
        if inspect.Parameter.VAR_KEYWORD not in kinds or 'base' in hint or 'afan' in hint:
            raise ValueError(
                f'{key} must be base, afan or an argument of {stock.__name__}, but got '
                f'{key}={config[key]!r}{hint}'
            )

    @classmethod
    def _check_afan(cls, afan: Any) -> None:
        for each in afan if isinstance(afan, (list, tuple)) else [{} if afan is None else afan]:
            if not isinstance(each, dict):
                raise TypeError(
                    f'afan must be a dict of settings or a list of such, but got {each!r}'
                )
            options = {key: each[key] for key in cls.options if key in each}
            cls.check_options(options)
            AFANSettings.from_config({k: each[k] for k in each if k not in options})

    @classmethod
    def check_options(cls, options: Dict[str, Any]) -> None:
        """Raise where options that are given are wrong whatever the model."""

    @classmethod
    def stock_class(cls, base: Union[str, type, None]) -> Type[nn.Module]:
        found = find_model(base) if isinstance(base, str) else base
        if not isinstance(found, type) or not cls.accepts(found):
            hint = "; write base='<its type>'" if base is None else ''
            raise TypeError(
                f'base of {cls.__name__} must be {cls.allowed_base}, but got {base!r}{hint}'
            )
        return found

    @classmethod
    def accepts(cls, stock: type) -> bool:
        """Whether a stock class can be the base."""
        return (
            issubclass(stock, nn.Module)
            and callable(getattr(stock, 'loss', None))
            and not issubclass(stock, AFANComponent)
        )

    @classmethod
    def _derive(cls, base: Union[str, type, None]) -> type:
        return _derived(cls, cls.stock_class(base))

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
    registries = [MODELS, *MODELS.children.values()]
    found = None
    if name:  # registries fail on ''
        with MODELS.switch_scope_and_registry(None) as registry:
            found = registry.get(name)
        for registry in registries:
            found = found or registry.get(name)
    if found is None:
        known = {key for registry in registries for key in registry.module_dict}
        raise KeyError(
            f'base must be the type of a registered model, but got {name!r}'
            f'{did_you_mean(name, known)}'
        )
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: such as are close to it, if any."""
    close = difflib.get_close_matches(str(name), list(known), n=3)
    return f'; did you mean {" or ".join(map(repr, close))}?' if close else ''


def parameter(cls: type, name: str) -> Optional[inspect.Parameter]:
    """A parameter of a constructor; one with ``**kwargs`` hands it on to the class it derives
    from.
    """
    for each in cls.__mro__:
        if '__init__' not in vars(each):
            continue
        parameters = inspect.signature(each.__init__).parameters
        if name in parameters:
            return parameters[name]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return None


def check_part(component: Type[AFANComponent], path: str) -> None:
    """Complain of a component in a part of the model that is not its own.

    Args:
        path: Of the component in the model, such as 'neck' or 'detector.neck.0'.

    Raises:
        UsageError: If it is in one of the component's ``elsewhere``.
    """
    names = [name for name in path.replace('[', '.').split('.') if not name.rstrip(']').isdigit()]
    if names[-1] in component.elsewhere:
        own = next(k for k in component.__mro__ if not issubclass(k, nn.Module))
        raise UsageError(
            f'{own.__name__} must not be the {names[-1]} of a model, but got it at {path}; '
            f'{own.advice}'
        )
