"""Tables and a plot of what a benchmark measured."""

from io import BytesIO, StringIO
from typing import Any, Dict, List

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

FORMATS = tuple(sorted(FigureCanvasAgg.get_supported_filetypes()))


def report(result: Dict[str, Any], markdown: bool = False) -> str:
    """The tables of one config as plain text, or in Markdown."""
    if 'growth' in result:
        tables = [_growth_table(quantity, rows) for quantity, rows in result['growth'].items()]
    else:
        tables = [_variants_table(result['variants'])]
        if result['tails']:
            tables.append(_tails_table(result['tails']))
        if result['parts']:
            tables.append(_parts_table(result['parts']))
    stream = StringIO()
    console = Console(file=stream, width=160)
    for table in tables:
        table.box = box.MARKDOWN if markdown else table.box
        console.print(table)
        console.print()
    return (
        _heading(result)
        + '\n\n'
        + '\n'.join(line.rstrip() for line in stream.getvalue().splitlines())
    )


def plot(results: List[Dict[str, Any]], file_format: str) -> bytes:
    """A picture with one panel for each config, or for each quantity that grows in it.

    Args:
        file_format: One of ``FORMATS``.
    """
    panels = [(result, quantity) for result in results for quantity in result.get('growth', [None])]
    heights = [
        4.0 if quantity else 1.5 + 0.4 * len(result['variants']) for result, quantity in panels
    ]
    figure = Figure(figsize=(9, sum(heights)))
    axes = figure.subplots(len(panels), squeeze=False, gridspec_kw=dict(height_ratios=heights))
    for (result, quantity), axis in zip(panels, axes[:, 0]):
        axis.set_title(result['config'], fontsize=9)
        if quantity is None:
            _draw_variants(axis, result['variants'])
        else:
            _draw_growth(axis, quantity, result['growth'][quantity])
        axis.legend(fontsize=8)
    figure.tight_layout()
    picture = BytesIO()
    figure.savefig(picture, format=file_format, dpi=120)
    return picture.getvalue()


def _heading(result: Dict[str, Any]) -> str:
    height, width = result['shape']
    lines = [
        f'{result["config"]}: batches of {result["batch_size"]}, images of {height} x {width}, '
        f'{result["device"]}, '
        f'{result["precision"]}, {result["rounds"]} rounds'
    ]
    lines += [
        'time: median (first to third quartile) of the ratios to the stock step of the same round'
    ]
    if 'growth' in result:
        lines[-1] += ', with the same value'
    else:
        lines += [
            'floor: 1 + the time of each tail x how often a step runs it; neither attack passes '
            'nor the search for the directions of '
            'several attached sites is in it'
        ]
    lines += [
        'memory: the most that parameters, buffers, optimizer state, gradients and activations '
        'took together in a step, as '
        f'a ratio; from {result["memory_from"]}'
    ]
    return '\n'.join(lines)


def _variants_table(variants: Dict[str, Any]) -> Table:
    table = Table('variant', 'what it does', 'time', 'floor', 'time / floor', 'memory')
    for name, row in variants.items():
        floor = (
            ['', '']
            if row['floor'] is None
            else [f'{row["floor"]:.2f}', f'{row["time"]["median"] / row["floor"]:.2f}']
        )
        table.add_row(name, row['title'], _spread(row['time']), *floor, f'{row["memory"]:.2f}')
    return table


def _tails_table(tails: Dict[str, Any]) -> Table:
    table = Table('site', 'as in', 'one forward and backward of its tail', 'times in a step')
    for variant, sites in tails.items():
        for site, row in sites.items():
            table.add_row(site, variant, _spread(row['time'], 3), f'{row["passes"]:g}')
    return table


def _parts_table(parts: Dict[str, float]) -> Table:
    table = Table('part of the A-FAN step', 'per cent of its time')
    for name, percent in parts.items():
        table.add_row(name, f'{percent:.1f}')
    return table


def _growth_table(quantity: str, rows: List[Dict[str, Any]]) -> Table:
    table = Table(quantity, 'time', 'memory', 'stock step, s', 'stock memory, MiB')
    for row in rows:
        if 'error' in row:
            table.add_row(str(row['value']), row['error'])
            continue
        table.add_row(
            str(row['value']),
            _spread(row['time']),
            f'{row["memory"]:.2f}',
            f'{row["stock_seconds"]:.3f}',
            f'{row["stock_bytes"] / 2**20:.0f}',
        )
    return table


def _spread(time: Dict[str, float], digits: int = 2) -> str:
    return f'{time["median"]:.{digits}f} ({time["q1"]:.{digits}f} to {time["q3"]:.{digits}f})'


def _errors(rows: List[Dict[str, Any]]) -> List[List[float]]:
    """Lengths of the whiskers below and above each median."""
    times = [row['time'] for row in rows]
    return [
        [time['median'] - time['q1'] for time in times],
        [time['q3'] - time['median'] for time in times],
    ]


def _draw_variants(axis: Any, variants: Dict[str, Any]) -> None:
    rows, heights = list(variants.values()), list(range(len(variants)))
    axis.barh(
        heights,
        [row['time']['median'] for row in rows],
        xerr=_errors(rows),
        color='#9ecae1',
        capsize=3,
        label='time',
    )
    floors = [
        (row['floor'], height) for row, height in zip(rows, heights) if row['floor'] is not None
    ]
    if floors:
        axis.scatter(*zip(*floors), marker='|', s=300, color='black', label='floor of the time')
    axis.scatter(
        [row['memory'] for row in rows],
        heights,
        marker='D',
        s=20,
        color='#e6550d',
        label='peak memory',
    )
    axis.set_yticks(heights)
    axis.set_yticklabels(list(variants))
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel('ratio to the stock step')


def _draw_growth(axis: Any, quantity: str, rows: List[Dict[str, Any]]) -> None:
    rows = [row for row in rows if 'error' not in row]
    values = [row['value'] for row in rows]
    axis.errorbar(
        values,
        [row['time']['median'] for row in rows],
        yerr=_errors(rows),
        marker='o',
        capsize=3,
        label='time',
    )
    axis.plot(values, [row['memory'] for row in rows], marker='D', label='peak memory')
    axis.set_xticks(values)
    axis.set_ylim(bottom=0)
    axis.set_xlabel(quantity)
    axis.set_ylabel('ratio to the stock step')
