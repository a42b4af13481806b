"""Trains the cells of a comparison one after another, and tabulates them."""

import json
import logging
import traceback

import jax

from okd_jax import train
from okd_jax.devices import signals
from okd_jax.errors import ConfigError, Interrupted
from okd_jax.results import comparison as result_tables, grid, rows as results
from okd_jax.results.grid import Cell
from okd_jax.runs import summary
from okd_jax.settings import freeze
from okd_jax.settings.schema import Comparison
from okd_jax.storage import files, paths
from okd_jax.storage.paths import Path

_log = logging.getLogger(__name__)


def compare(config: Comparison, workdir: Path) -> dict[str, str]:
  """Runs what is left of a comparison.

  Every cell is an ordinary run in `<network>/<row>/seed<k>`. Finished cells
  are left alone; tables are renewed after each of the others.

  Args:
    config: see `okd_jax.settings.freeze.freeze_comparison`.
    workdir: of the comparison.

  Returns:
    Why cells have failed, by their names; they do not stop the others.

  Raises:
    ConfigError: if the grid cannot be run.
    Interrupted: after a signal; the same command goes on.
  """
  cells = grid.cells(config, workdir)
  grid.check(config, cells)
  first = jax.process_index() == 0
  if first:
    _remember(config, workdir)
  failed: dict[str, str] = {}
  # Around everything: signals between two runs must not be lost.
  with signals.Stop() as stop:
    for number, cell in enumerate(cells, 1):
      if stop.requested:
        raise Interrupted(
          f"Stopped before cell {number} of {len(cells)}; the same command "
          "goes on."
        )
      print(f"\nCell {number} of {len(cells)}: {cell.name}", flush=True)
      try:
        _require_teacher(cell, failed)
        if summary.finished(cell.config, cell.workdir) is not None:
          print("Finished already.", flush=True)
        else:
          train.train(cell.config, cell.workdir, stop=stop)
        (cell.workdir / results.ERROR).unlink(missing_ok=True)
      except Interrupted:
        raise
      except Exception as error:
        failed[cell.name] = f"{type(error).__name__}: {error}"
        _log.error("%s failed: %s", cell.name, failed[cell.name])
        _record_failure(cell, failed[cell.name])
      if first:
        result_tables.write(workdir)
  if first:
    _draw(workdir)
  return failed


def _remember(config: Comparison, workdir: Path) -> None:
  files.make_folder(workdir)
  path = workdir / results.CONFIG
  files.write(path, json.dumps(freeze.as_dict(config), indent=2) + "\n")
  try:
    published = paths.expand(config.published).read_bytes()
  except OSError as error:
    raise ConfigError(
      f"config.published='{config.published}' must be a file like "
      f"configs/published.json ({error.strerror})."
    ) from error
  files.write(workdir / results.PUBLISHED, published)


def _require_teacher(cell: Cell, failed: dict[str, str]) -> None:
  teacher = "/".join(cell.config.teacher.split("/")[-3:])
  # What it left behind may look like a run.
  if teacher in failed:
    raise ConfigError(f"its teacher, {teacher}, failed.")


def _record_failure(cell: Cell, why: str) -> None:
  if jax.process_index() != 0:
    return
  files.make_folder(cell.workdir)
  text = f"{why}\n\n{traceback.format_exc()}"
  files.write(cell.workdir / results.ERROR, text)


def _draw(workdir: Path) -> None:
  try:
    # Takes seconds to import, and is not needed for the tables.
    from okd_jax.results import comparison_plots as compare_plots

    compare_plots.plot(workdir)
  except ModuleNotFoundError as error:
    _log.warning("No plots were drawn: %s", error)
