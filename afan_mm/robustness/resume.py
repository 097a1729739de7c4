"""What an interrupted evaluation has done so far, in a file of the work folder."""

import hashlib
import json
import os
import os.path as osp
import pickle
from typing import Any, Dict, List, NamedTuple, Optional

from mmengine.dist import all_gather_object
from mmengine.evaluator import Evaluator
from torch import nn

from ..utils.files import write
from ..utils.models import digest_of


class Snapshot(NamedTuple):
    """From where a run can go on.

    Attributes:
        state: What was saved.
        lengths: How many results each metric had; they only grow.
    """

    state: Dict[str, Any]
    lengths: List[int]


class UnfinishedRun:
    """Saves the processed results of evaluators, and gives them back to a later run that evaluates
    the same.

    Args:
        path: The file; each process has its own.
        key: Names what is evaluated, see :func:`run_key`.
        evaluators: Those whose results are kept.
    """

    def __init__(self, path: str, key: str, evaluators: List[Evaluator]):
        self.path = path
        self.key = key
        self.metrics = [metric for evaluator in evaluators for metric in evaluator.metrics]
        self._points: Dict[int, Snapshot] = {}

    @property
    def possible(self) -> bool:
        """Whether results outlive the process: some metrics keep theirs in a temporary folder."""
        return all(getattr(metric, 'tmp_dir', None) is None for metric in self.metrics)

    def load(self) -> Optional[Dict[str, Any]]:
        """Fill the evaluators; what :meth:`save` was given, or None where there is nothing of this
        key.

        It is what was saved last by all processes, each of which calls this: where they were killed
        between two saves, the first goes back to the one before. Otherwise it would wait in vain
        for the others wherever they talk to each other.
        """
        saved = self._read()
        own = saved['points'] if saved else {}
        common = set.intersection(*map(set, all_gather_object(list(own))))
        if not common:
            return None
        self._points = {done: point for done, point in own.items() if done <= max(common)}
        state, lengths = self._points[max(common)]
        for metric, results, length in zip(self.metrics, saved['results'], lengths):
            metric.results[:] = results[:length]
        return dict(state)  # the caller goes on counting in it

    def _read(self) -> Optional[Dict[str, Any]]:
        if not self.possible or not osp.isfile(self.path):
            return None
        try:
            with open(self.path, 'rb') as file:
                # results may be of any type; the file is the user's own, as a config is
                saved = pickle.load(file)
        except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError):
            return None
        known = isinstance(saved, dict) and saved.get('key') == self.key and 'points' in saved
        return saved if known else None

    def save(self, state: Dict[str, Any]) -> None:
        """Keep the evaluators' results with a state, all of it or nothing.

        Args:
            state: With the number of ``batches`` that are done.
        """
        if not self.possible:
            return
        results = [metric.results for metric in self.metrics]
        self._points[state['batches']] = Snapshot(dict(state), [len(each) for each in results])
        content = dict(key=self.key, points=self._points, results=results)
        write(self.path, pickle.dumps(content))

    def remove(self) -> None:
        """What was saved, once nothing needs to go on from it."""
        if osp.exists(self.path):
            os.remove(self.path)


def run_key(model: nn.Module, **about: Any) -> str:
    """A digest of a model's weights and of everything else that the figures depend on.

    Args:
        about: Numbers, strings, and dicts and lists of them; of anything else its type counts.
    """
    about = dict(about, weights=digest_of(model.state_dict()))
    text = json.dumps(about, sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(text.encode()).hexdigest()
