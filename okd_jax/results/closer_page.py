"""A closer look at a run as a part of an HTML page."""

import base64
import html
import pathlib
import tempfile

from okd_jax.results import closer as closer_lib, closer_plots, formats, page
from okd_jax.results.closer import Closer
from okd_jax.storage import bucket
from okd_jax.storage.paths import Path

# Tables with more rows are folded.
_LONG = 40


def parts(workdir: Path, prefix: str) -> list[str]:
  """HTML about every split that `eval --per-class` has evaluated.

  Args:
    workdir: work directory of a run.
    prefix: prefix of identifiers, which no other call uses on this page.
  """
  made = []
  with bucket.reached(workdir):
    folders = sorted((workdir / "per_class").glob("*"))
  for folder in folders:
    found = closer_lib.read(folder)
    if found is not None:
      made += _of_split(found, f"{prefix}_{folder.name}")
  return made


def _of_split(found: Closer, prefix: str) -> list[str]:
  tables = [
    page.folded_html(table.title, formats.as_html(table))
    if len(table.rows) > _LONG
    else formats.as_html(table)
    for table in found.tables()
  ]
  with tempfile.TemporaryDirectory() as folder:
    files = closer_plots.plot(found, pathlib.Path(folder))
    pictures = page.pictures(files, prefix)
  return [*tables, pictures, _mistakes(found)]


def _mistakes(found: Closer) -> str:
  """The images that the leader gets wrong, the most confident first."""
  total = int(found.matrix.sum())
  title = (
    f"Images that the leader gets wrong, {found.about}: {len(found.wrong)} of "
    f"{total}"
  )
  items = []
  for png, mistake in zip(found.images, found.wrong, strict=False):
    text = (
      f"{found.names[mistake.label]} taken for "
      f"{found.names[mistake.taken_for]}, "
      f"{100 * mistake.confidence:.1f}\N{NO-BREAK SPACE}%"
    )
    which = mistake.file or f"image {mistake.place}"
    source = base64.b64encode(png).decode()
    items.append(
      f'<li><img alt="{html.escape(text, quote=True)}" '
      f'src="data:image/png;base64,{source}">{html.escape(text)}<br>'
      f"<small>{html.escape(which)}</small></li>"
    )
  left = len(found.wrong) - len(items)
  more = f"<p>And {left} more: see wrong.csv.</p>" if left else ""
  return (
    f'<figure>\n<h3>{html.escape(title)}</h3>\n<ul class="images">'
    f"{''.join(items)}</ul>\n<figcaption>The surest first.{more}</figcaption>\n"
    "</figure>"
  )
