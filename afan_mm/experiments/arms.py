"""The training config of each arm."""

from typing import Any, Dict, Optional

from mmengine.config import Config

from ..utils.configs import config_file
from ..utils.errors import UsageError
from .arm_specs import ArmSpec, ExperimentError
from .config import Experiment
from .references import REFERENCES, longer


class Arms:
    """The resolved configs of an experiment, each read once."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self._resolved: Dict[str, Config] = {}

    def config(self, name: str, factor: Optional[float] = None) -> Config:
        """The training config of an arm, not to be changed.

        Args:
            factor: Of a 'longer' arm that states none.
        """
        if name not in self._resolved:
            spec = self.experiment.arms[name]
            try:
                self._resolved[name] = self._resolve(spec, factor)
            except UsageError as error:
                raise ExperimentError(f'arm {name}: {error}') from error
            except Exception as error:  # a config is a program and may fail in any way
                raise ExperimentError(
                    f'arm {name}: {type(error).__name__}: {str(error).strip()}'
                ) from error
        return self._resolved[name]

    def needs_factor(self, name: str) -> bool:
        """Whether the arm's length must be measured on other arms first."""
        spec = self.experiment.arms[name]
        return spec.reference == 'longer' and spec.factor is None

    def stock(self) -> Config:
        """The base config with what the arm named 'stock' changes, if there is one."""
        if 'stock' in self.experiment.arms:
            return self.config('stock')
        return self._resolve(ArmSpec('stock', overrides=[self.experiment.common]))

    def _resolve(self, spec: ArmSpec, factor: Optional[float] = None) -> Config:
        if spec.reference in (None, 'stock'):
            cfg = Config.fromfile(config_file(spec.config or self.experiment.base))
        elif spec.reference == 'longer':
            cfg = longer(self.stock(), spec.factor or factor)
        else:
            arm = self.config(spec.of)
            cfg = REFERENCES[spec.reference](self.stock(), arm)
        for overrides in spec.overrides:
            if overrides:
                cfg.merge_from_dict(_plain(overrides))
        if spec.factor is not None and spec.reference != 'longer':
            cfg = longer(cfg, spec.factor)
        _strip_delete(cfg._cfg_dict)
        return cfg


def _plain(node: Any) -> Any:
    """A copy, since merging takes a dict apart."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(each) for each in node] if isinstance(node, list) else node


def _strip_delete(node: Any) -> None:
    """Remove ``_delete_`` where there was nothing to replace, which mmengine would leave."""
    if isinstance(node, dict):
        node.pop('_delete_', None)
    if isinstance(node, (dict, list, tuple)):
        for child in node.values() if isinstance(node, dict) else node:
            _strip_delete(child)
