"""Writes tables as Markdown, LaTeX, CSV and HTML."""

from collections.abc import Sequence
import csv
import dataclasses
import html
import io

_LATEX = {
  "\\": r"\textbackslash{}",
  "&": r"\&",
  "%": r"\%",
  "$": r"\$",
  "#": r"\#",
  "_": r"\_",
  "{": r"\{",
  "}": r"\}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  "±": r"$\pm$",
  # In the default font they are other characters.
  "<": "$<$",
  ">": "$>$",
  "|": "$|$",
}
# Longer cells, in characters, may be broken into several lines.
_LONG = 24


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text.

  Attributes:
    title: title above the table.
    columns: headings of the columns.
    rows: rows of cells, with one cell for each column.
    notes: paragraphs below the table.
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]
  notes: Sequence[str] = ()


def markdown(tables: Sequence[Table]) -> str:
  """Tables in GitHub's dialect of Markdown."""

  def line(cells):
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"

  blocks = []
  for table in tables:
    lines = [line(table.columns), "|" + "---|" * len(table.columns)]
    lines += [line(row) for row in table.rows]
    blocks += [f"### {table.title}", "\n".join(lines), *table.notes]
  return "\n\n".join(blocks) + "\n"


def latex(tables: Sequence[Table]) -> str:
  """LaTeX table environments that need no package."""
  blocks = []
  for table in tables:
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in table.rows]
    blocks.append(
      "\n".join(
        (
          r"\begin{table}",
          rf"\caption{{{_latex(table.title)}}}",
          rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}",
          r"\hline",
          " & ".join(map(_latex, table.columns)) + r" \\",
          r"\hline",
          *lines,
          r"\hline",
          r"\end{tabular}",
          *(rf"\par {_latex(note)}" for note in table.notes),
          r"\end{table}",
        )
      )
    )
  return "\n\n".join(blocks) + "\n"


def as_csv(table: Table) -> str:
  """The headings and cells of a table, without title and notes."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(table.columns)
  writer.writerows(table.rows)
  return text.getvalue()


def as_html(table: Table) -> str:
  """An HTML figure with title, table and notes.

  The cells of the first column are headings of the rows.
  """

  def element(tag, cell):
    look = ' class="text"' if len(cell) > _LONG else ""
    return f"<{tag}{look}>{html.escape(cell)}</{tag}>"

  def cells(tag, row):
    return "".join(element(tag, cell) for cell in row)

  body = "\n".join(
    f'<tr><th scope="row">{html.escape(row[0])}</th>{cells("td", row[1:])}</tr>'
    for row in table.rows
  )
  notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
  return (
    f"<figure>\n<h3>{html.escape(table.title)}</h3>\n"
    f'<div class="wide"><table>\n<thead><tr>{cells("th", table.columns)}</tr>'
    f"</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n"
    f"<figcaption>{notes}</figcaption>\n</figure>"
  )


def _latex(text: str) -> str:
  return "".join(_LATEX[c] if c in _LATEX else c for c in text)
