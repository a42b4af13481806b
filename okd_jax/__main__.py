"""Commands around training: python -m okd_jax COMMAND --help.

Training itself is main.py.
"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import json
from pathlib import Path
import sys
from typing import Any

import jax

from okd_jax.cli import common as cli
from okd_jax.devices import distributed, mesh as mesh_lib
from okd_jax.errors import ConfigError, DataError
from okd_jax.runs import display, run as reopen
from okd_jax.settings import build
from okd_jax.training import evaluate as evaluate_lib, step as steps


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

  command = add(_eval, "eval", "Evaluate a run: accuracy, NLL, calibration.")
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

  text = "Classify images with a run's leader or an exported network."
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

  text = "Check a folder of images: counts, sizes, damaged, duplicate files."
  command = add(_data, "data", text, workdir=False)
  command.add_argument("path", metavar="PATH", help="as after 'folder:'")
  _add_json(command)

  text = "Look at packages, devices, space and data, and compile one step."
  add(_doctor, "doctor", text, workdir=False)
  return parser


def _add_json(command: argparse.ArgumentParser) -> None:
  command.add_argument("--json", action="store_true", help="print JSON")


def _print_json(content: Any) -> None:
  print(json.dumps(content, indent=2))


def _eval(args: argparse.Namespace) -> None:
  config = reopen.about(args.workdir)[0]
  devices = len(jax.devices())
  spread = devices if config.eval_batch_size % devices == 0 else 1
  mesh = mesh_lib.make_mesh(spread, 1)
  run = reopen.run(args.workdir, mesh)
  # Any size that the devices divide; nothing is trained.
  config = dataclasses.replace(config, batch_size=spread)
  source = build.source(config, mesh)
  figures = evaluate_lib.evaluate(
    run.recipe,
    jax.jit(functools.partial(steps.eval_step, run.recipe)),
    run.state,
    functools.partial(source.evaluation, args.split),
  )
  count = len(source.positions[args.split])
  result = {"step": run.step, "split": args.split, "count": count}
  measured: dict[str, dict[str, Any]] = {}
  for name, value in figures.items():
    who, _, figure = name.rpartition("/")
    if who and who.removeprefix("ema/") != "peers_mean":
      measured.setdefault(who, {})[figure] = value
  for who in [who for who in measured if "peer_" in who and not args.all_peers]:
    del measured[who]
  for values in measured.values():
    for figure in ("accuracy", "accuracy_top5"):
      values[figure.replace("accuracy", "correct")] = round(
        values[figure] * count
      )
  result |= {name: v for name, v in figures.items() if "diversity" in name}
  if args.json:
    _print_json(result | {"figures": measured})
    return
  rows = [
    (
      who,
      f"{values['correct']}",
      display.percent(values["accuracy"]),
      display.percent(values["accuracy_top5"]),
      f"{values['cross_entropy']:.4f}",
      f"{values['calibration_error']:.4f}",
    )
    for who, values in measured.items()
  ]
  display.table(
    f"{args.workdir}, step {run.step}, {args.split} split",
    ["who", f"correct of {count}", "top-1", "top-5", "NLL", "ECE"],
    rows,
  )


def _export(args: argparse.Namespace) -> None:
  from okd_jax.weights import export

  run = reopen.run(args.workdir)
  name = args.what.replace("/", "_")
  to = args.to or args.workdir / (
    name if args.format == "stablehlo" else f"{name}_{args.format}"
  )
  export.export(run, to, args.what, args.format)
  print(f"{args.what} of step {run.step} is in {to}.")


def _predict(args: argparse.Namespace) -> None:
  from okd_jax.weights import predict

  results = predict.predict(args.target, args.images)
  if args.json:
    _print_json(results)
    return
  best = range(1, 1 + len(results[0]["predictions"]))
  display.table(
    f"Predictions of {args.target}",
    ["image", *map(str, best)],
    [
      (
        result["image"],
        *(
          f"{p['class']} {display.percent(p['probability'])}"
          for p in result["predictions"]
        ),
      )
      for result in results
    ],
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


def _data(args: argparse.Namespace) -> None:
  from okd_jax.data.formats import folder

  report = folder.check_folder(args.path.removeprefix("folder:"))
  damaged = {str(path): reason for path, reason in report.damaged.items()}
  sizes = sorted(report.sizes.items(), key=lambda item: -item[1])
  if args.json:
    _print_json(
      {
        "counts": report.counts,
        "sizes": {f"{w}x{h}": count for (w, h), count in sizes},
        "damaged": damaged,
        "duplicates": [list(map(str, group)) for group in report.duplicates],
      }
    )
  else:
    classes = {name: None for split in report.counts.values() for name in split}
    rows = [
      (name, *(split.get(name, 0) for split in report.counts.values()))
      for name in classes
    ]
    totals = (sum(split.values()) for split in report.counts.values())
    display.table(
      f"Images in {args.path}",
      ["class", *report.counts],
      [*rows, ("total", *totals)],
    )
    display.table(
      f"Sizes, {len(sizes)} in all",
      ["width x height", "images"],
      [(f"{w} x {h}", count) for (w, h), count in sizes[:10]],
    )
    for group in report.duplicates:
      print(f"Equal files: {', '.join(map(str, group))}")
    for path, reason in damaged.items():
      print(f"Damaged: {path}: {reason}")
  if damaged:
    raise DataError(
      f"{len(damaged)} file(s) in {args.path} are damaged; replace or remove "
      "them."
    )


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
