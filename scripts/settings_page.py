"""Writes docs/settings.md from the classes that hold the settings.

    python -m scripts.settings_page

A test compares the page with what this program would write.
"""

from collections.abc import Iterator
import dataclasses
import json
from pathlib import Path
from typing import Any

from okd_jax import methods, rules
from okd_jax.settings.schema import Comparison, RunConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
_HEAD = """# Settings

Every setting with its default and meaning. `--config.KEY=VALUE` changes one on
the command line; a recipe starts from `common.base()` and changes what it
needs. A value that breaks its rule is refused before anything is built, with a
message that says what was expected. Settings marked "yes" may be changed when a
run is resumed in its work directory; the others are fixed for the run.

This page is written by `python -m scripts.settings_page`.
"""
_COLUMNS = "| key | type | default | must be | meaning | may differ on resume |"


def page() -> str:
  """The text of the page."""
  parts = [_HEAD, "## A run", "", *_table(RunConfig(), "config.")]
  for field in dataclasses.fields(RunConfig):
    section = field.default
    if dataclasses.is_dataclass(section):
      path = f"config.{field.name}."
      about = rules.meanings(RunConfig)[field.name]
      parts += ["", f"## `config.{field.name}`: {about}", ""]
      parts += _table(section, path)
  parts += [
    "",
    "## `config.method`: a method and its hyperparameters",
    "",
    "`config.method.name` is one of those below, or `module:Class` for a",
    "method of your own. A recipe chooses it with `common.method(NAME)`; the",
    "other keys of the section are the fields of the class of the method.",
  ]
  for name in methods.names():
    parts += ["", f"### {name}", ""]
    if methods.fields(name):
      parts += _table(
        methods.load(name), "config.method.", methods.fields(name)
      )
    else:
      parts += ["No hyperparameters."]
  parts += [
    "",
    "## A comparison",
    "",
    "For `python -m okd_jax compare`; `config.base` is a run without a method.",
    "",
    *_table(Comparison(), "config."),
  ]
  return "\n".join(parts) + "\n"


def _table(
  section: Any, path: str, fields: list[dataclasses.Field[Any]] | None = None
) -> Iterator[str]:
  yield _COLUMNS
  yield "|" + "---|" * _COLUMNS.count(" | ") + "---|"
  yield from _rows(section, path, fields)


def _rows(
  section: Any, path: str, fields: list[dataclasses.Field[Any]] | None = None
) -> Iterator[str]:
  described = section if isinstance(section, type) else type(section)
  meanings = rules.meanings(described)
  for field in fields or dataclasses.fields(section):
    rule = rules.of(field)
    if rule is None:
      # Sections of a run have tables of their own.
      if dataclasses.is_dataclass(field.default) and path.count(".") > 1:
        yield from _rows(field.default, f"{path}{field.name}.")
      continue
    default = field.default if fields else getattr(section, field.name)
    if "follows" in field.metadata:
      shown = (
        f"`{_text(default)}`, follows `config.{field.metadata['follows'][0]}`"
      )
    else:
      shown = f"`{_text(default)}`"
    cells = (
      f"`{path}{field.name}`",
      rules.KINDS.get(type(default), "a section"),
      "" if default is None else shown,
      rule.expectation,
      meanings[field.name],
      "yes" if field.metadata.get("free_on_resume") else "",
    )
    yield f"| {' | '.join(cells)} |"


def _text(value: Any) -> str:
  return json.dumps(value) if isinstance(value, str) else repr(value)


if __name__ == "__main__":
  PAGE.write_text(page())
