"""The table that every chapter ends with: HTML in a notebook, aligned text in a terminal."""

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slimcnn.latency import format_ms
from slimcnn.record import Record, RecordedLatency
from slimcnn.summary import Summary, require_same, summarize, varying_settings


@dataclass(frozen=True)
class Table:
    """Rows of text under a header: HTML in a notebook, aligned columns in a terminal.

    Attributes:
        caption: what the numbers are.
        header: a title for each column.
        rows: the cells, as many as titles in each row.
        numeric: for each column, whether it is set flush right.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]

        def aligned(line: Sequence[str]) -> str:
            cells = [
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, self.numeric, strict=True)
            ]
            return "  ".join(cells).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([aligned(self.header), rule, *map(aligned, self.rows), self.caption])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def cell(tag: str, text: str, column: int, scope: str = "") -> str:
            align = "right" if self.numeric[column] else "left"
            scope = f' scope="{scope}"' if scope else ""
            return f'<{tag}{scope} style="text-align:{align}">{html.escape(text)}</{tag}>'

        head = "".join(cell("th", text, i, "col") for i, text in enumerate(self.header))
        body = "".join(
            "<tr>"
            + cell("th", row[0], 0, "row")
            + "".join(cell("td", text, i) for i, text in enumerate(row[1:], 1))
            + "</tr>\n"
            for row in self.rows
        )
        # A region that scrolls must be reachable by keyboard, and then needs a name.
        caption = html.escape(self.caption)
        return (
            f'<div class="slimcnn-table" role="region" tabindex="0" aria-label="{caption}"'
            ' style="overflow-x:auto">\n<table>\n'
            f'<caption style="caption-side:bottom;text-align:left">{caption}</caption>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>"
        )


def table(
    records: Iterable[Record | Summary],
    columns: Sequence[str] | None = None,
    *,
    caption: str | None = None,
) -> Table:
    """The records as a table, seeds joined, one row for a model, technique and settings.

    Args:
        records: of one stage and one split; or what `summarize` made of them.
        columns: from "model", "technique", "settings" (those that differ between rows),
            "settings.NAME", "accuracy", "seeds", "parameters", "nonzeros", "macs", "bytes",
            "latency". By default settings and latency only if there are any, and all
            others but "seeds".
        caption: put before the sentence that says what the numbers are.

    Raises:
        RecordError: there are no records, or they cannot stand in one table (`summarize`).
        ValueError: a column has another name.
    """
    rows = joined(records)
    if columns is None:
        columns = ["model", "technique", *_settings_columns(rows), "accuracy", "parameters"]
        columns += ["nonzeros", "macs", "bytes"]
        columns += ["latency"] if any(row.latency for row in rows) else []
    chosen = [_column(name, rows) for name in columns]
    if not chosen:
        raise ValueError("no columns are asked for; leave `columns` out or name at least one")
    return Table(
        caption=" ".join(filter(None, (caption, _explanation(rows, columns)))),
        header=tuple(column.title for column in chosen),
        rows=tuple(tuple(column.text(row) for column in chosen) for row in rows),
        numeric=tuple(column.numeric for column in chosen),
    )


def joined(records: Iterable[Record | Summary]) -> list[Summary]:
    """Summaries as they are, or records joined by `summarize`; of one stage and split."""
    items = list(records)
    if items and all(isinstance(item, Summary) for item in items):
        require_same(items, "stage", "screens and final runs are not compared")
        require_same(items, "split", "accuracies on different images are not compared")
        return items
    return summarize(items)


@dataclass(frozen=True)
class _Column:
    title: str
    text: Callable[[Summary], str]
    numeric: bool = True


def _column(name: str, rows: Sequence[Summary]) -> _Column:
    if name.startswith("settings."):
        key = name.removeprefix("settings.")
        values = [row.settings.get(key) for row in rows]
        numeric = all(isinstance(value, int | float | None) for value in values)
        return _Column(key, lambda row: _plain(row.settings.get(key, "")), numeric)
    if name == "settings":
        varying = varying_settings(rows)
        return _Column(name, lambda row: _settings_text(row, varying), numeric=False)
    if name == "latency":
        return _Column("latency, ms", _latency_text(rows))
    if name not in _COLUMNS:
        raise ValueError(
            f"there is no column {name!r}; there are {', '.join(_COLUMNS)}, latency,"
            " settings and settings.NAME"
        )
    return _COLUMNS[name]


def _settings_columns(rows: Sequence[Summary]) -> list[str]:
    """A column for each setting that differs, or one for all if some rows lack some."""
    varying = varying_settings(rows)
    if all(name in row.settings for row in rows for name in varying):
        return [f"settings.{name}" for name in varying]
    return ["settings"]


def _accuracy(row: Summary) -> str:
    spread = f" ± {row.accuracy_std:.2f}" if row.accuracy_std is not None else ""
    return f"{row.accuracy:.2f}{spread} (n = {len(row.seeds)})"


_COLUMNS = {
    "model": _Column("model", lambda row: row.model, numeric=False),
    "technique": _Column("technique", lambda row: row.technique, numeric=False),
    "accuracy": _Column("accuracy, %", _accuracy),
    "seeds": _Column("seeds", lambda row: ", ".join(map(str, row.seeds))),
    "parameters": _Column("parameters", lambda row: f"{row.parameters:,.0f}"),
    "nonzeros": _Column("non-zeros", lambda row: f"{row.nonzeros:,.0f}"),
    "macs": _Column("MACs, M", lambda row: f"{row.macs / 1e6:,.2f}"),
    "bytes": _Column("size, kB", lambda row: f"{row.bytes / 1e3:,.1f}"),
}


def _settings_text(row: Summary, names: Sequence[str]) -> str:
    present = [name for name in names if name in row.settings]
    return ", ".join(f"{name} {_plain(row.settings[name])}" for name in present)


def _latency_text(rows: Sequence[Summary]) -> Callable[[Summary], str]:
    """Median (first to third quartile), and the conditions in which the rows differ."""
    differing = _conditions(rows)[1]

    def text(row: Summary) -> str:
        latency = row.latency
        if latency is None:
            return "–"
        mark = "†" if latency.disturbed else ""
        quartiles = f"({format_ms(latency.q1_ms)} to {format_ms(latency.q3_ms)})"
        parts = [f"{format_ms(latency.median_ms)}{mark} {quartiles}"]
        return ", ".join(parts + [describe(latency)[i] for i in differing])

    return text


def describe(latency: RecordedLatency) -> tuple[str, str, str]:
    """How a latency was measured: runtime, threads, processor."""
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    return latency.runtime, threads, latency.cpu


def _conditions(rows: Sequence[Summary]) -> tuple[list[str], list[int]]:
    """What all latencies have in common, and the positions in `describe` that differ."""
    described = [describe(row.latency) for row in rows if row.latency]
    alternatives = [list(dict.fromkeys(values)) for values in zip(*described, strict=True)]
    shared = [values[0] for values in alternatives if len(values) == 1]
    return shared, [i for i, values in enumerate(alternatives) if len(values) > 1]


def _explanation(rows: Sequence[Summary], columns: Sequence[str]) -> str:
    """Sentences for the caption: what was measured, where, how."""
    parts = []
    if "accuracy" in columns:
        several = any(row.accuracy_std is not None for row in rows)
        how = "mean ± standard deviation over n seeds" if several else "n = number of seeds"
        screen = ", a screen" if rows[0].stage == "screen" else ""
        parts.append(f"Accuracy on the {rows[0].split} split{screen}; {how}.")
    if "latency" in columns:
        parts.append(f"Latency: {', '.join(['median (quartiles)', *_conditions(rows)[0]])}.")
        if any(row.latency and row.latency.disturbed for row in rows):
            parts.append("† Disturbed by other work: not to be relied on.")
    return " ".join(parts)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
