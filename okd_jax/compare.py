"""Trains cells of a comparison, next to other workers, and tabulates them."""

from collections.abc import Sequence
import contextlib
import json
import logging

import jax

from okd_jax import train
from okd_jax.devices import signals
from okd_jax.devices.processes import Meeting
from okd_jax.errors import (
  ConfigError,
  Interrupted,
  RunLockError,
  UnreachableError,
)
from okd_jax.results import (
  comparison as result_tables,
  grid,
  published,
  rows as results,
)
from okd_jax.results.grid import Cell
from okd_jax.results.share import Share
from okd_jax.runs import same_processes, workdir as workdir_lib
from okd_jax.settings import freeze
from okd_jax.settings.schema import Comparison
from okd_jax.storage import files, paths
from okd_jax.storage.paths import Path

_log = logging.getLogger(__name__)

# Of several processes all must have failed in the same way by then.
_FAIL_SECONDS = 60.0


def compare(
  config: Comparison,
  workdir: Path,
  *,
  only: str = "*",
  skip_failed: bool = False,
) -> dict[str, str]:
  """Trains the cells of a comparison that are left and that no one else trains.

  Every cell is an ordinary run in `<network>/<row>/seed<k>`. Finished cells are
  skipped; after each other cell the tables are written again. The function
  returns when no cell is left: it waits for cells that other workers train, and
  takes them over if these workers die.

  Args:
    config: the comparison, see `okd_jax.settings.freeze.freeze_comparison`.
    workdir: work directory of the comparison.
    only: pattern of cells, see `okd_jax.results.grid.only`.
    skip_failed: whether to skip cells that have failed before.

  Returns:
    Why cells have failed, by their names; they do not stop the others.

  Raises:
    ConfigError: if the grid cannot be run.
    Interrupted: after a signal; the same command continues.
    UnreachableError: if a bucket cannot be reached; the same command continues.
    Exception: the error of a cell that failed, or was lost to another run, in
      only some processes of a worker, which then cannot continue together.
  """
  same_processes.require_settings(config)
  cells = grid.cells(config, workdir)
  grid.check(config, cells)
  share = Share(grid.only(cells, only), skip_failed=skip_failed)
  names = [cell.name for cell in cells]
  first = jax.process_index() == 0
  if first:
    _remember(config, workdir)
  # Around everything: signals between two runs must not be lost.
  with signals.Stop() as stop:
    while True:
      with contextlib.ExitStack() as held:
        name = _take(share, held, stop)
        if stop.agreed():
          raise Interrupted(
            "Stopped between two cells; the same command goes on."
          )
        if not name:
          break
        number = names.index(name)
        print(f"\nCell {number + 1} of {len(cells)}: {name}", flush=True)
        _train(cells[number], cells, share, stop)
      if first:
        _tabulate(workdir)
  if first:
    _tabulate(workdir, draw=True)
  failed: dict[str, str] = json.loads(
    Meeting().told(lambda: json.dumps(share.failed))
  )
  return failed


def _take(share: Share, held: contextlib.ExitStack, stop: signals.Stop) -> str:
  """The next cell, locked; empty if there is none, or after a signal."""
  # Process 0 has the lock, so it chooses for the others. It may wait for hours,
  # and a signal may come to any of them.
  meeting = Meeting()
  return meeting.told(
    lambda: share.take(held, lambda: stop.requested or meeting.called()),
    calls=lambda: stop.requested,
  )


def _train(
  cell: Cell, cells: Sequence[Cell], share: Share, stop: signals.Stop
) -> None:
  meeting = Meeting()
  try:
    # Process 0 chooses, as others may see later which cells are finished.
    like = meeting.told(lambda: _alike(cell, cells))
    train.train(
      cell.config,
      cell.workdir,
      stop=stop,
      still_ours=share.still_ours,
      like={other.name: other.workdir for other in cells}.get(like),
    )
    if jax.process_index() == 0:
      (cell.workdir / results.ERROR).unlink(missing_ok=True)
  except (Interrupted, UnreachableError):
    # An outage says nothing about the cell, which stays to be trained.
    raise
  except Exception as error:
    if isinstance(error, RunLockError):
      _log.warning("%s", error)
      share.give_back(cell)
    else:
      share.fail(cell, error)
    if not meeting.is_unanimous(repr(error), _FAIL_SECONDS):
      raise


def _alike(cell: Cell, cells: Sequence[Cell]) -> str:
  """The name of a finished cell whose data and teacher another must have."""
  for teacher in dict.fromkeys((cell.teacher, "")):
    for other in cells:
      same = (other.teacher, other.config.data) == (teacher, cell.config.data)
      if same and results.is_finished(other):
        return other.name
  return ""


def _remember(config: Comparison, workdir: Path) -> None:
  try:
    content = paths.expand(config.published).read_bytes()
    published.parse(content)
  except (OSError, ValueError) as error:
    raise ConfigError(
      f"config.published='{config.published}' must be a file like "
      f"configs/published.json ({error})."
    ) from error
  text = json.dumps(freeze.as_dict(config), indent=2) + "\n"
  with workdir_lib.turn(workdir):
    files.write(workdir / results.CONFIG, text)
    files.write(workdir / results.PUBLISHED, content)


def _tabulate(workdir: Path, draw: bool = False) -> None:
  """Writes the tables from the results of all workers so far."""
  with workdir_lib.turn(workdir):
    result_tables.write(workdir)
    if draw:
      _draw(workdir)


def _draw(workdir: Path) -> None:
  try:
    # Takes seconds to import, and is not needed for the tables.
    from okd_jax.results import comparison_plots as compare_plots

    compare_plots.plot(workdir)
  except ModuleNotFoundError as error:
    _log.warning("No plots were drawn: %s", error)
