"""The frame of a self-contained HTML page, and pictures in it."""

from collections.abc import Sequence
import html
import re

from okd_jax.storage.paths import Path

_CSS = """
:root { color-scheme: light dark; --text: #222; --page: #fff; --soft: #555;
  --stripe: #f4f6f8; --grid: #ddd; --accent: #0072B2; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --page: #16181b; --soft: #a8adb3;
    --stripe: #212529; --grid: #3a3f45; --accent: #56B4E9; }
}
* { box-sizing: border-box; }
body { color: var(--text); background: var(--page); margin: 0 auto;
  max-width: 112rem; padding: 1rem clamp(0.75rem, 3vw, 3rem);
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { border-top: 2px solid var(--accent); padding-top: 1rem;
  margin-top: 3rem; }
figure { margin: 1.5rem 0; min-width: 0; }
figcaption, .about { color: var(--soft); font-size: 0.875rem;
  max-width: 60rem; }
.wide { overflow-x: auto; }
.pictures { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 38rem), 1fr)); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; text-align: left; vertical-align: bottom; }
td { white-space: nowrap; }
td.text { white-space: normal; min-width: 12rem; max-width: 36rem; }
thead th { border-bottom: 2px solid var(--text); }
tbody tr:nth-child(even) { background: var(--stripe); }
svg { display: block; width: 100%; height: auto; min-width: 30rem;
  max-width: 56rem; fill: currentColor; }
.images { display: grid; gap: 1rem; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr));
  font-size: 0.8125rem; }
.images img { display: block; width: 6rem; height: 6rem; object-fit: contain;
  background: var(--stripe); image-rendering: pixelated; }
pre { overflow-x: auto; font-size: 0.8125rem; }
"""
# Colours of pictures that follow the page, which may be dark.
_COLORS = {
  "#000000": "currentColor",
  "#ffffff": "var(--page)",
  "#dddddd": "var(--grid)",
}


def page(title: str, sections: Sequence[str]) -> str:
  """A whole page.

  Args:
    title: title of the page.
    sections: HTML of its sections.
  """
  return (
    "<!DOCTYPE html>\n"
    '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{title}</title>\n<style>{_CSS}</style>\n"
    f"</head>\n<body>\n<h1>{title}</h1>\n"
    + "\n".join(sections)
    + "\n</body>\n</html>\n"
  )


def section(
  title: str, about: str, parts: Sequence[str], details: Sequence[str] = ()
) -> str:
  """A section of a page.

  Args:
    title: title of the section.
    about: a sentence that describes it.
    parts: HTML of its parts.
    details: HTML of the parts at its end.
  """
  return "\n".join(
    (
      "<section>",
      f"<h2>{html.escape(title)}</h2>",
      f'<p class="about">{html.escape(about)}</p>',
      *parts,
      *details,
      "</section>",
    )
  )


def folded(title: str, text: str) -> str:
  """Text that is hidden until the reader opens it."""
  return folded_html(title, f"<pre>{html.escape(text)}</pre>")


def folded_html(title: str, content: str) -> str:
  """HTML that is hidden until the reader opens it."""
  summary = f"<summary>{html.escape(title)}</summary>"
  return f"<details>{summary}{content}</details>"


def pictures(files: Sequence[Path], prefix: str) -> str:
  """The SVG files among these pictures, side by side if there is room.

  Args:
    files: files of pictures.
    prefix: prefix of identifiers, which no other call uses on this page.
  """
  drawn = []
  for path in files:
    if path.suffix == ".svg":
      inline = _inline(
        path.read_text(encoding="utf-8"), f"{prefix}-{path.stem}"
      )
      drawn.append(f'<figure class="wide">\n{inline}\n</figure>')
  return "\n".join(('<div class="pictures">', *drawn, "</div>"))


def _inline(svg: str, name: str) -> str:
  """An SVG file as a part of a page that has several of them.

  Args:
    svg: content of a file that Matplotlib has written.
    name: prefix, "-" and name of the picture; unique on the page. Screen
      readers read the part after the first "-".
  """
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  for color, shared in _COLORS.items():
    svg = re.sub(rf"(fill|stroke): {color}\b", rf"\1: {shared}", svg)
  unique = re.sub(r"[^\w-]", "_", name)
  svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{unique}-", svg)
  label = html.escape(name.partition("-")[2].replace("_", " "), quote=True)
  return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
