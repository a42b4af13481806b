"""Whether a run is complete, and the summary that it left."""

import json
import logging
from typing import Any

from okd_jax.runs import run as run_lib
from okd_jax.settings import config as config_lib
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files, strict_json
from okd_jax.storage.paths import Path
from okd_jax.training.clock import Clock

_log = logging.getLogger(__name__)

SUMMARY = "summary.json"
# Of a summary: whether what follows training was done, too. Summaries of
# earlier releases do not say so.
FINISHED = "finished"
# Whole records, of figures by name.
RECORDS = ("last", "best", "terms")


def read(workdir: Path) -> dict[str, Any] | None:
  """Reads the summary of a run; None if it is missing or damaged.

  Both are treated alike, as a run that continues writes it again. Figures that
  were not finite are nan.
  """
  try:
    found = dict(json.loads(files.text(workdir / SUMMARY)))
    records = {name: found[name] for name in RECORDS if name in found}
    return found | {n: strict_json.with_nan(r) for n, r in records.items()}
  except (OSError, ValueError, TypeError, AttributeError):
    return None


def finished(config: RunConfig, workdir: Path) -> dict[str, Any] | None:
  """The summary of a run that is complete; None if there is none.

  Raises:
    ConfigError: if the folder holds a run of another configuration.
  """
  result = read(workdir)
  if result is None or not result.get(FINISHED, True):
    return None
  saved = run_lib.saved_config(workdir)
  if saved is None:
    return None
  config_lib.require_resumable(config, saved)
  now = (config.epochs, config.extra_epochs)
  if (saved.get("epochs"), saved.get("extra_epochs", 0)) != now:
    return None
  # That of the summary: a run that got more patience and was interrupted has
  # the new one in its configuration. Earlier releases did not summarise it.
  patience = result.get("patience", saved.get("patience", 0))
  if patience != config.patience and _ended_early(workdir, result):
    return None
  # A run that got more epochs and was interrupted in them has its old summary.
  return result if result.get("epochs") == sum(now) else None


def warn_if_unfinished(setting: str, run: run_lib.Run) -> None:
  """Warns that the weights which `setting` names are of a run that goes on."""
  if finished(run.config, run.workdir) is None:
    _log.warning(
      "%s='%s' is not a finished run: its weights are those of step %s of %s. "
      "Let its command go on to its end first, if this is not wanted.",
      *(setting, run.workdir, f"{run.step:,}", f"{run.setup.total_steps:,}"),
    )


def _ended_early(workdir: Path, result: dict[str, Any]) -> bool:
  """Whether a run ended before its last epoch, for lack of patience."""
  config, _, train_size = run_lib.about(workdir)
  epochs = config.epochs + config.extra_epochs
  total = Clock(config.batch_size, train_size, epochs).total_steps
  return "last" in result and result["last"]["step"] < total
