"""Results as one self-contained HTML file: it opens offline, on a phone, in light or dark.

Nothing in the file refers to another file or host: images are data URIs, style and script are
inline, and a content security policy forbids everything else. All text is escaped. The same
arguments give the same bytes.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jinja2

import dermagan_jax
from dermagan_jax import files
from dermagan_jax.errors import DermaganError

Cell = str | int | float | None
"""Text, a number, or None for a value that is missing."""

_TEMPLATE = "report.html.j2"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MISSING = "–"  # noqa: RUF001  an en dash is what tables print for no value


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose columns sort by a click.

    Attributes:
      caption: what the table shows.
      columns: the headings.
      rows: cells by row, as many as there are columns; the first names the row.
      decimals: digits after the point of the cells of type float.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    decimals: int = 3


@dataclasses.dataclass(frozen=True)
class Figure:
    """An image with its caption.

    Attributes:
      image: a PNG: its file or its bytes.
      caption: what to see in it.
      alt: what it shows, for who cannot see it.
    """

    image: str | Path | bytes
    caption: str
    alt: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report: text, then tables, then figures.

    Attributes:
      title: its heading.
      text: plain text; an empty line starts a new paragraph.
      tables: its tables.
      figures: its figures, set side by side where there is room.
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


def write_report(
    path: str | Path,
    *,
    title: str,
    notice: str,
    sections: Sequence[Section],
    commands: Sequence[str] = (),
) -> Path:
    """Writes the report, at once or not at all.

    Args:
      path: the HTML file; its folder must exist.
      title: heading and window title.
      notice: the banner at the top, for example "Phantom data: says nothing about skin."
      sections: the contents, in order.
      commands: the command lines that made the results, for the footer.

    Returns:
      The path written.

    Raises:
      DermaganError: a figure's file is missing or no PNG, or the report cannot be written.
      ValueError: a row of a table has another number of cells than there are columns.
    """
    template = _environment().get_template(_TEMPLATE)
    page = template.render(
        title=title,
        notice=notice,
        sections=[_section_view(section) for section in sections],
        commands=commands,
        missing=_MISSING,
        version=dermagan_jax.__version__,
    )
    path = Path(path)
    with files.replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _section_view(section: Section) -> dict:
    """Returns what the template prints of a section."""
    paragraphs = [part.strip() for part in section.text.split("\n\n")]
    return {
        "title": section.title,
        "paragraphs": [part for part in paragraphs if part],
        "tables": [_table_view(table) for table in section.tables],
        "figures": [
            {"uri": _data_uri(figure.image), "caption": figure.caption, "alt": figure.alt}
            for figure in section.figures
        ],
    }


def _table_view(table: Table) -> dict:
    """Returns the caption, the headings and the rows, each cell as it is printed."""
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(
                f"table {table.caption!r}: a row of {len(row)} cells for "
                f"{len(table.columns)} columns: {list(row)}"
            )
    # A column is set as numbers when it has one, so that its gaps stand in line too.
    numeric = [
        any(isinstance(row[index], int | float) for row in table.rows)
        for index in range(len(table.columns))
    ]
    return {
        "caption": table.caption,
        "columns": list(zip(table.columns, numeric, strict=True)),
        "rows": [
            [
                {"text": _printed(cell, table.decimals), "number": _number(cell), "numeric": kind}
                for cell, kind in zip(row, numeric, strict=True)
            ]
            for row in table.rows
        ],
    }


def _printed(cell: Cell, decimals: int) -> str:
    if cell is None:
        return _MISSING
    if isinstance(cell, float):
        return f"{cell:,.{decimals}f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _number(cell: Cell) -> str:
    """Returns what a cell sorts by, in full precision, or "" where it sorts by its text."""
    return repr(float(cell)) if isinstance(cell, int | float) else ""


def _data_uri(image: str | Path | bytes) -> str:
    """Returns a PNG as a URI that holds all of it."""
    name, data = "figure", image
    if not isinstance(data, bytes):
        name = str(data)
        try:
            data = Path(data).read_bytes()
        except OSError as error:
            raise DermaganError(
                f"{name}: cannot be read ({error.strerror}); make the figure again, then the report"
            ) from error
    if not data.startswith(_PNG_SIGNATURE):
        raise DermaganError(f"{name}: not a PNG file; make the figure again, then the report")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
