"""The tables before and after a run, and summary.json."""

from collections.abc import Sequence
import statistics
from typing import Any

import jax

from okd_jax import tasks
from okd_jax.data import Source
from okd_jax.devices import mesh as mesh_lib
from okd_jax.runs import (
  best as best_lib,
  display,
  outcome,
  records as records_lib,
  sizes as sizes_lib,
  spread,
)
from okd_jax.settings import config as config_lib, freeze, idle
from okd_jax.settings.schema import RunConfig
from okd_jax.storage import files, strict_json
from okd_jax.storage.paths import Path
from okd_jax.tasks import figure as figure_lib
from okd_jax.tasks.figure import (
  distinct,
  DIVERSITY,
  Figure,
  GROUP,
  of_record as figures_of,
  parse,
)
from okd_jax.tasks.measure import Measure, place_of_best
from okd_jax.training import average
from okd_jax.training.runner import Runner
from okd_jax.training.setup import Setup

_TIMES = ("images_per_second", "compile_seconds")


def show_plan(config: RunConfig, setup: Setup, source: Source) -> None:
  """Prints what will be trained."""
  peers = range(setup.peers.num_peers)
  leader = setup.leader
  sizes = sizes_lib.of_peers(setup, [leader] if setup.peers.equal else peers)
  devices = setup.mesh.devices.flat
  num_test = len(source.positions["test"])
  rows = [
    ("method", f"{config.method.name}{_hyperparameters(config)}"),
    (
      "peers",
      sizes_lib.networks(
        setup.peers.num_peers, config.peers.kind, config.peers.net
      ),
    ),
    ("parameters of all peers", f"{sizes_lib.parameters(setup):,}"),
    (
      "deployed",
      f"peer {leader}: {sizes_lib.text(sizes[figure_lib.peer(leader)])}",
    ),
    (
      "devices",
      f"{len(setup.mesh.devices.flat)} {devices[0].device_kind}, data x peer "
      f"= {setup.mesh.shape[mesh_lib.DATA]} x "
      f"{setup.mesh.shape[mesh_lib.PEER]}, {config.precision}",
    ),
    (
      "data",
      f"{source.info.name} ({config.data.source}): {source.train_size:,} to "
      f"train, {len(source.positions['validation']):,} to validate, "
      f"{f'{num_test:,}' if num_test else 'none'} to test, "
      f"{'x'.join(map(str, source.info.image_shape))}, "
      f"{source.info.num_classes} {setup.task.classes_are}",
    ),
    (
      "schedule",
      f"{config.epochs} epochs{_extra(config)}, {setup.total_steps:,} steps of "
      f"{config.batch_size}, ramp-up over {config.rampup_epochs} epochs",
    ),
  ]
  if not setup.peers.equal:
    nets = config.peers.net.split(",")
    rows[4:4] = [
      (peer, f"{net}: {sizes_lib.text(size)}")
      for net, (peer, size) in zip(nets, sizes.items(), strict=True)
    ]
  if setup.teacher is not None:
    rows.insert(2, ("teacher", config.teacher))
  rows.append(
    (
      "optimiser",
      f"{config.optim.name}, learning rate {config.optim.learning_rate:g}, "
      f"{config.schedule.name}",
    )
  )
  notes = *source.notes, *idle.notes(config), average.note(setup)
  rows += [("note", note) for note in notes if note]
  display.table("Plan", ["what", "value"], rows)


def _extra(config: RunConfig) -> str:
  return f" and {config.extra_epochs} more" if config.extra_epochs else ""


def write(
  config: RunConfig, setup: Setup, workdir: Path, runner: Runner
) -> dict[str, Any]:
  """Summarises a trained run from its records; `finish` is to follow.

  Args:
    config: configuration of the run.
    setup: setup of the run.
    workdir: work directory, which gets summary.json.
    runner: the runner, which knows the time taken.

  Returns:
    The content of summary.json: the `last` and the `best` evaluation, see
    `okd_jax.runs.best.judge`, and the loss terms of the last record. The last
    evaluation is the result to report, as the best one was selected by its
    figures. Without data to choose by, `best_by` is None and both are the end
    of training.
  """
  records = records_lib.read_metrics(workdir)
  evaluations = [r for r in records if r["kind"] == "eval"]
  trained = [r for r in records if r["kind"] == "train"]
  task = setup.task
  judge = best_lib.judge(config, task, evaluations[-1])
  best = evaluations[-1]
  if judge is not None:
    merits = [best_lib.merit(task, r, judge) for r in evaluations]
    best = evaluations[place_of_best(merits)]
  result = {
    "method": config.method.name,
    "net": config.peers.net,
    "kind": config.peers.kind,
    "num_peers": setup.peers.num_peers,
    "data": config.data.name,
    "seed": config.seed,
    "epochs": config.epochs + config.extra_epochs,
    "patience": config.patience,
    outcome.FINISHED: False,
    "config_hash": config_lib.digest(config),
    "best_by": judge,
    "last": evaluations[-1],
    "best": best,
    "terms": trained[-1],
  }
  if not setup.peers.equal:
    result["sizes"] = sizes_lib.of_peers(setup, range(setup.peers.num_peers))
  if runner.images_per_second:
    result["images_per_second"] = runner.images_per_second
    result["compile_seconds"] = runner.compile_seconds
  else:  # nothing was trained, so nothing was timed
    result |= _timed_before(workdir, result)
  _write(workdir, result)
  return result


def finish(workdir: Path, result: dict[str, Any]) -> dict[str, Any]:
  """Records in summary.json that a run is complete.

  Args:
    workdir: work directory of the run.
    result: the content, as `write` returned it.

  Returns:
    The content of summary.json.
  """
  result = result | {outcome.FINISHED: True}
  _write(workdir, result)
  return result


def _write(workdir: Path, result: dict[str, Any]) -> None:
  if jax.process_index() == 0:
    files.write(workdir / outcome.SUMMARY, strict_json.text(result) + "\n")


def _timed_before(workdir: Path, result: dict[str, Any]) -> dict[str, Any]:
  """The times in an earlier summary of the same steps."""
  earlier = outcome.read(workdir) or {}
  if earlier.get("last", {}).get("step") != result["last"]["step"]:
    return {}
  return {name: earlier[name] for name in _TIMES if name in earlier}


def show_results(config: RunConfig, results: Sequence[dict[str, Any]]) -> None:
  """Prints the summary of every seed, and mean and deviation over several.

  Args:
    config: configuration of the runs.
    results: the summary of each run.
  """
  headline = _headline(config, results[0])
  for result in results:
    _show_result(result, headline)
  if len(results) < 2:
    return
  values: dict[str, list[float]] = {}
  split = next(iter(_shown_splits(results[0])), None)
  if split is None:
    return
  for result in results:
    for figure, value in _on(split, result["last"], headline).items():
      shown = values.setdefault(figure.prediction, [])
      shown.append(headline.scaled(value))
  rows = [
    (who, f"{statistics.fmean(shown):.2f} ± {spread.deviation(shown):.2f}")
    for who, shown in values.items()
  ]
  display.table(
    f"{headline.heading} on {split}{headline.unit}, last epoch, "
    f"mean ± sample standard deviation over {len(results)} seeds",
    ["who", headline.words],
    rows,
  )


def _headline(config: RunConfig, result: dict[str, Any]) -> Measure:
  """The figure by which the best evaluation was chosen, or would have been."""
  if result["best_by"] is None:
    return tasks.load(config_lib.make_method(config).task).headline()
  name = parse(result["best_by"]).measure
  known = (m for task in tasks.NAMES for m in tasks.load(task).measures)
  return next(measure for measure in known if measure.name == name)


def _show_result(result: dict[str, Any], headline: Measure) -> None:
  """Prints the summary of a finished run."""
  last, best = (figures_of(result[when]) for when in ("last", "best"))
  splits = _shown_splits(result)
  if "test" not in splits:
    print("There are no test data, so nothing is known about new examples.")
  if not splits:
    return
  sizes = result.get("sizes", {})
  what = tuple(next(iter(sizes.values()), ()))
  rows: list[tuple[str, ...]] = []
  for split in splits:
    # With one split its name is in the title alone.
    where = f"{split}: " if len(splits) > 1 else ""
    rows += [
      (
        f"{where}{figure.prediction}",
        headline.text(value),
        headline.text(best[figure]),
        *(_cell(sizes.get(figure.prediction, {}), name) for name in what),
      )
      for figure, value in _on(split, result["last"], headline).items()
    ]
    if result["num_peers"] > 1:
      diversity = Figure(split, GROUP, False, DIVERSITY)
      values = (f"{r[diversity]:.4f}" for r in (last, best))
      rows.append((f"{where}{DIVERSITY}", *values, *("" for _ in what)))
  group = sizes_lib.networks(*(result[k] for k in ("num_peers", "kind", "net")))
  title = (
    f"{result['method']}, {group} on {result['data']}, seed {result['seed']}: "
    f"{headline.words} on {' and '.join(splits)}"
  )
  columns = [
    f"{when} (step {result[when]['step']})" for when in ("last", "best")
  ]
  display.table(title, ["who", *columns, *what], rows)
  by = result["best_by"]
  print(f"The best step is that of the best {by}.", end=" ")
  if parse(by).split == "test":
    print(
      "It was chosen by looking at the test data, so its figures on them are "
      "too good; config.data.validation holds data out to choose by."
    )
  else:
    print("The test data had no part in choosing it.")


def _shown_splits(result: dict[str, Any]) -> list[str]:
  """The splits of a finished run, test first; empty if not evaluated."""
  there = {figure.split for figure in figures_of(result["last"])}
  return [split for split in ("test", "validation") if split in there]


def _on(
  split: str, evaluation: dict[str, Any], headline: Measure
) -> dict[Figure, float]:
  """The headline figures of all networks and predictions on a split."""
  return {
    figure: value
    for figure, value in distinct(figures_of(evaluation)).items()
    if (figure.split, figure.measure) == (split, headline.name)
  }


def _hyperparameters(config: RunConfig) -> str:
  values = freeze.as_dict(config.method).items()
  shown = ", ".join(f"{key}={value}" for key, value in values if key != "name")
  return f" ({shown})" if shown else ""


def _cell(size: dict[str, int], what: str) -> str:
  return f"{size[what]:,}" if what in size else ""
