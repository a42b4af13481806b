"""Commands around training: python -m okd_jax COMMAND --help.

Training itself is main.py.
"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import json
from pathlib import Path
import sys
from typing import Any

import jax

from okd_jax.cli import common as cli, data as data_command, new_method
from okd_jax.devices import distributed, mesh as mesh_lib
from okd_jax.errors import ConfigError, DataError
from okd_jax.runs import display, run as run_lib
from okd_jax.settings import build
from okd_jax.tasks.figure import (
  DIVERSITY,
  GROUP,
  peer_index,
  PEERS_MEAN,
  prediction,
)
from okd_jax.training.evaluate import Evaluator


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line and runs one command."""
  with cli.exit_codes():
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.command is not _compare:
      parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.flags = rest
    cli.prepare_jax()
    args.command(args)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m okd_jax", description=__doc__.splitlines()[0]
  )
  commands = parser.add_subparsers(metavar="COMMAND", required=True)

  def add(run: Any, name: str, text: str, workdir: bool = True) -> Any:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=run)
    if workdir:
      command.add_argument(
        "workdir", type=Path, metavar="WORKDIR", help="of the run"
      )
    return command

  command = add(_eval, "eval", "Evaluate a run: all figures of its task.")
  command.add_argument(
    "--split", choices=("test", "validation", "held_out"), default="test"
  )
  command.add_argument(
    "--all-peers", action="store_true", help="every peer, not the leader alone"
  )
  _add_json(command)

  command = add(_export, "export", "Take the leader, or another network, away.")
  command.add_argument(
    "--what",
    default="leader",
    help="leader (default), peer_0, peer_1, ..., ensemble, or a group "
    "prediction of the method, by its name in an evaluation",
  )
  command.add_argument(
    "--to", type=Path, help="folder; named after --what in WORKDIR by default"
  )
  command.add_argument(
    "--format",
    choices=("stablehlo", "savedmodel"),
    default="stablehlo",
    help="stablehlo for JAX (default) or TensorFlow's SavedModel; for ONNX run "
    "scripts/export_onnx.py on the exported folder",
  )

  text = "Ask a run's leader or an exported network about images."
  command = add(_predict, "predict", text, workdir=False)
  command.add_argument(
    "target", type=Path, metavar="WORKDIR|LEADER", help="run or exported folder"
  )
  command.add_argument(
    "images", type=Path, nargs="+", metavar="IMAGE", help="files or folders"
  )
  _add_json(command)

  command = add(_plot, "plot", "Draw the curves of runs.", workdir=False)
  command.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR")

  text = "Train methods, networks and seeds by one recipe, and tabulate them."
  command = add(_compare, "compare", text, workdir=False)
  command.usage = (
    "python -m okd_jax compare --config=configs/compare_c100.py "
    "[--workdir=DIR] [--config.key=value ...]"
  )

  text = "Write one HTML page about runs and comparisons."
  command = add(_report, "report", text, workdir=False)
  command.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR")
  command.add_argument(
    "--to", type=Path, help="file; report.html in the first WORKDIR by default"
  )

  text = "Tell what training would use of a folder of images."
  command = add(data_command.run, "data", text, workdir=False)
  data_command.add_arguments(command)
  _add_json(command)

  command = add(new_method.run, "new-method", new_method.TEXT, workdir=False)
  new_method.add_arguments(command)

  text = "Look at packages, devices, space and data, and compile one step."
  add(_doctor, "doctor", text, workdir=False)
  return parser


def _add_json(command: argparse.ArgumentParser) -> None:
  command.add_argument("--json", action="store_true", help="print JSON")


def _print_json(content: Any) -> None:
  print(json.dumps(content, indent=2))


def _eval(args: argparse.Namespace) -> None:
  config = run_lib.about(args.workdir)[0]
  devices = len(jax.devices())
  spread = devices if config.eval_batch_size % devices == 0 else 1
  mesh = mesh_lib.make_mesh(spread, 1)
  run = run_lib.run(args.workdir, mesh)
  # Any size that the devices divide; nothing is trained.
  config = dataclasses.replace(config, batch_size=spread)
  source = build.source(config, mesh)
  figures = Evaluator(run.setup, source).figures(run.state, (args.split,))
  if not figures:
    raise DataError(
      f"--split={args.split} of {args.workdir} is empty; choose another."
    )
  count = len(source.positions[args.split])
  about = {"step": run.step, "split": args.split, "count": count} | {
    prediction(figure.measure, figure.averaged): value
    for figure, value in figures.items()
    if figure.measure == DIVERSITY
  }
  measures = run.setup.task.measures
  by_who: dict[str, dict[str, Any]] = {}
  for figure, value in figures.items():
    single = figure.who not in (PEERS_MEAN, GROUP)
    if single and (args.all_peers or peer_index(figure.who) is None):
      by_who.setdefault(figure.prediction, {})[figure.measure] = value
  for values in by_who.values():
    for measure in measures:
      if measure.counts:
        values[measure.counts] = round(values[measure.name] * count)
  if args.json:
    _print_json(about | {"figures": by_who})
    return
  counts = run.setup.task.headline().counts
  rows = [
    (
      who,
      *([str(values[counts])] if counts else []),
      *(measure.text(values[measure.name]) for measure in measures),
    )
    for who, values in by_who.items()
  ]
  heads = ["who", *([f"{counts} of {count}"] if counts else [])]
  display.table(
    f"{args.workdir}, step {run.step}, {args.split} split",
    [*heads, *(measure.title for measure in measures)],
    rows,
  )


def _export(args: argparse.Namespace) -> None:
  from okd_jax.weights import export

  run = run_lib.run(args.workdir)
  name = args.what.replace("/", "_")
  to = args.to or args.workdir / (
    name if args.format == "stablehlo" else f"{name}_{args.format}"
  )
  export.export(run, to, args.what, args.format)
  print(f"{args.what} of step {run.step} is in {to}.")


def _predict(args: argparse.Namespace) -> None:
  from okd_jax.weights import predict

  results = predict.predict(args.target, args.images)
  bad = [result["error"] for result in results if "error" in result]
  if args.json:
    _print_json(results)
  elif len(bad) < len(results):
    answer_cells = predict.task_of(args.target).answer_cells
    rows = [
      (result["image"], *answer_cells(result["predictions"]))
      for result in results
      if "predictions" in result
    ]
    display.table(
      f"Predictions of {args.target}",
      ["image", *map(str, range(1, len(rows[0])))],
      rows,
    )
  if bad:
    listed = "\n  ".join(bad)
    raise DataError(
      f"{len(bad)} of {len(results)} files gave none:\n  {listed}"
    )


def _plot(args: argparse.Namespace) -> None:
  with _needing_matplotlib():
    from okd_jax.results import plots
  for workdir in args.workdirs:
    for path in plots.plot(workdir):
      print(path)


@contextlib.contextmanager
def _needing_matplotlib() -> Iterator[None]:
  try:
    yield
  except ModuleNotFoundError as error:
    cli.leave(
      f"{error}; pip install matplotlib adds it.", ConfigError.exit_code
    )


def _compare(args: argparse.Namespace) -> None:
  from okd_jax import compare
  from okd_jax.results import comparison as result_tables

  config, workdir = cli.read_comparison(["compare", *args.flags])
  cli.prepare_jax(config.base)
  distributed.initialize()
  failed = compare.compare(config, workdir)
  for table in result_tables.read(workdir):
    display.table(table.title, table.columns, table.rows)
    for note in table.notes:
      print(note)
  print(f"Results are in {workdir}.")
  if failed:
    sys.exit(1)


def _report(args: argparse.Namespace) -> None:
  with _needing_matplotlib():
    from okd_jax.results import report
  to = args.to or args.workdirs[0] / "report.html"
  report.write(args.workdirs, to)
  print(to)


def _doctor(args: argparse.Namespace) -> None:
  from okd_jax.cli import doctor

  del args
  findings = doctor.examine()
  display.table(
    "What is here",
    ["what", "found"],
    [
      (what, found if fine else f"PROBLEM: {found}")
      for what, found, fine in findings
    ],
  )
  if not all(fine for *_, fine in findings):
    sys.exit(1)


if __name__ == "__main__":
  main()
