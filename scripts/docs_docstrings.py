"""Turns the docstrings of the package into Markdown, for the pages of docs/.

They are in reStructuredText where they have mathematics or references, and end
with doctests.
"""

import re
from typing import Any

import griffe

_MATH = re.compile(r":math:`(.*?)`", re.DOTALL)
_LINK = re.compile(r"`([^`<]*?)\s*<(https?://[^>]*)>`_")
# From the first prompt to the end of the paragraph.
_DOCTEST = re.compile(r"^>>> .*?(?=^\s*$|\Z)", re.DOTALL | re.MULTILINE)


class Markdown(griffe.Extension):
  """Rewrites every docstring before it is parsed."""

  def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
    """Rewrites one docstring."""
    if obj.docstring is None:
      return
    text = _MATH.sub(r"\\(\1\\)", obj.docstring.value)
    text = _LINK.sub(lambda m: f"[{' '.join(m[1].split())}]({m[2]})", text)
    obj.docstring.value = _DOCTEST.sub(
      lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", text
    )
