"""Does A-FAN train what mmdet, mmseg and mmpretrain install? Families of configs, each tried in a
process of its own, and what came of them.
"""

import importlib.util
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from rich.console import Console
from rich.table import Table

from ..utils.files import write_json

LIBRARIES = tuple(
    name for name in ('mmdet', 'mmseg', 'mmpretrain') if importlib.util.find_spec(name)
)
Record = Dict[str, Any]  # what zoo_trial.py leaves of a family


def families(library: str) -> Dict[str, Path]:
    """The folders of configs that an installed library brings, by name."""
    root = Path(importlib.util.find_spec(library).origin).parent / '.mim' / 'configs'
    return {
        f'{library}/{folder.name}': folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name != '_base_'
    }


def try_family(
    name: str,
    folder: Path,
    out: Path,
    time_limit: float,
    options: Sequence[str] = (),
) -> None:
    """Run the trial of one family in a process of its own, and complete its record.

    Args:
        name: Of the family, such as 'mmdet/retinanet'.
        folder: With its configs.
        out: Its record, a JSON file; what it prints goes to the log file of that name.
        time_limit: In seconds.
        options: Of the trial, on its command line. Defaults to none, the recommended preset.
    """
    command = [sys.executable, '-W', 'ignore', '-m', f'{__package__}.zoo_trial']
    command += [name, str(folder), str(out.resolve()), *options]
    out.unlink(missing_ok=True)
    error = None
    with open(out.with_suffix('.log'), 'w') as log:
        try:
            code = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=time_limit,
                # some configs name others by 'configs/...'
                cwd=folder.parent.parent,
            ).returncode
            if code:
                error = (
                    f'the process ended with {code} (a negative number is the signal that ended it)'
                )
        except subprocess.TimeoutExpired:
            error = f'not done in {time_limit} s'
    record = json.loads(out.read_text()) if out.exists() else dict(stage='start', family=name)
    write_json(out, record if error is None else dict(record, error=error))


def read_record(out: Path) -> Optional[Record]:
    """What a trial left; None where there was none, or it was interrupted with its sweep."""
    try:
        record = json.loads(out.read_text())
    except (OSError, ValueError):
        return None
    # a trial that came to its end knows how long it took; of another one its sweep says why not
    return record if 'family' in record and ('seconds' in record or 'error' in record) else None


def is_wanted(out: Path, redo: Optional[str]) -> bool:
    """Whether a family is to be tried, given what it left before.

    Args:
        redo: 'failed' or 'all' to try these again; None for those not tried yet.
    """
    record = read_record(out)
    return record is None or redo == 'all' or redo == 'failed' and not passed(record)


def passed(record: Record) -> bool:
    """Whether A-FAN trained a family, or every attack made its step."""
    return 'error' not in record


def report(records: Sequence[Record], console: Console, tried: str = 'with A-FAN') -> None:
    """The table, the failures grouped by cause, and the count.

    Args:
        tried: How those trained that are counted, as the count says it. Defaults to 'with A-FAN'.
    """
    table = Table(
        'family',
        'stock loss',
        'components or attacks',
        'change of the gradients',
        'seconds',
        'result',
    )
    causes: Dict[Any, List[str]] = defaultdict(list)
    for record in sorted(records, key=lambda r: r['family']):
        how = ', in the second step' if record.get('steps') == 2 else ''
        how += ', with fitted norms' if record.get('fitted') else ''
        result = (
            f'passed{how}'
            if passed(record)
            else f'{record["stage"]}: {record["error"].splitlines()[0][:90]}'
        )
        if not passed(record):
            causes[record['stage'], record['error'].splitlines()[0][:140]].append(record['family'])
        table.add_row(
            record['family'],
            _number(record.get('stock_loss')),
            ', '.join(record.get('components', record.get('attacks', ()))),
            _number(record.get('change')),
            _number(record.get('seconds')),
            result,
        )
    console.print(table)
    for (stage, cause), names in sorted(causes.items()):
        console.print(f'{stage}: {cause}\n    {", ".join(names)}', markup=False, highlight=False)
    for library in (*LIBRARIES, None):
        mine = [r for r in records if r['family'].partition('/')[0] in (library or LIBRARIES)]
        counted = [r for r in mine if 'stock_loss' in r]
        good = sum(map(passed, counted))
        share = f' = {good / len(counted):.1%}' if counted else ''
        console.print(
            f'{library or "all"}: {len(mine)} families, {len(counted)} train '
            f'stock, {good} of these {tried}{share}'
        )


def _number(value: Optional[float]) -> str:
    return '' if value is None else f'{value:.3g}'
