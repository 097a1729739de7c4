"""What a run logged of A-FAN, joined from its logs."""

import json
import math
from pathlib import Path
from typing import Any, Dict, List

from ..utils.errors import UsageError

Report = Dict[str, float]


def find_logs(path: Path) -> List[Path]:
    """The ``scalars.json`` files of a work folder, oldest first; of a file, that file."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f'WORK_DIR must be a work folder or a scalars.json, but got {path}')
    # The folder of each run is named by its time. Such a folder, or the vis_data in it, may be
    # given too.
    found = [
        *sorted(path.glob('*/vis_data/scalars.json')),
        *path.glob('vis_data/scalars.json'),
        *path.glob('scalars.json'),
    ]
    if not found:
        raise UsageError(
            f'no scalars.json in {path}: the run must have a LocalVisBackend, and have logged a '
            'line'
        )
    return found


def read_lines(path: Path) -> Dict[int, Dict[str, Any]]:
    """The training lines of one log, by iteration. A last line that a killed run left unfinished is
    left out.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f'cannot read {path}: {error}') from error
    records = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            # not a line of an evaluation
            if 'loss' in record or any(key.startswith('afan/') for key in record):
                records[record['step']] = record
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):
                raise UsageError(f'line {number} of {path} is no record of scalars') from error
    return records


def read_run(path: Path) -> Dict[str, Any]:
    """One run: its loss, and the reports of each site.

    Where a run was resumed, what an earlier log holds from the first iteration of a later one on is
    dropped.

    Args:
        path: A work folder, or a ``scalars.json``.

    Returns:
        dict: ``loss``, a dict from iteration to the run's own loss, and ``sites``, a dict from site
        to a list of reports. A report is a dict of the figures of :class:`~afan_mm.health.Health`
        with three more: ``iter``; ``clean``, the loss of the site's tail on the clean feature; and
        ``relative_gain``, the gain divided by it.
    """
    joined: Dict[int, Dict[str, Any]] = {}
    for log in find_logs(path):
        lines = read_lines(log)
        joined = {step: line for step, line in joined.items() if not lines or step < min(lines)}
        joined.update(lines)
    sites: Dict[str, List[Report]] = {}
    for step, line in sorted(joined.items()):
        for site, figures in _figures(line).items():
            reports = sites.setdefault(site, [])
            # A logger that is faster than AFANHook repeats its last report.
            if not reports or any(reports[-1].get(key) != value for key, value in figures.items()):
                reports.append(dict(figures, iter=step, **_relative(figures)))
    if not sites:
        raise UsageError(
            f'no A-FAN figures in {path}: a stock run, a run without AFANHook, or one shorter '
            'than its interval'
        )
    return dict(
        loss={step: line['loss'] for step, line in sorted(joined.items()) if 'loss' in line},
        sites=sites,
    )


def _figures(line: Dict[str, Any]) -> Dict[str, Report]:
    sites: Dict[str, Report] = {}
    for key, value in line.items():
        if key.startswith('afan/'):
            site, figure = key[len('afan/') :].rsplit('/', 1)
            sites.setdefault(site, {})[figure] = float(value)
    # otherwise no pass was measured yet
    return {site: figures for site, figures in sites.items() if 'gain' in figures}


def _relative(figures: Report) -> Report:
    clean = figures['objective'] - figures['gain']
    return dict(clean=clean, relative_gain=figures['gain'] / clean if clean > 0 else math.nan)
