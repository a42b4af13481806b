"""Runs and comparisons in one picture of each kind, and in one table."""

import dataclasses
import json
import shutil

import numpy as np
from PIL import Image
import pytest

from okd_jax import __main__
from okd_jax.results import canvas, course, report, together, together_plots
from okd_jax.runs import records
from okd_jax.tasks.figure import Figure

NAMES = ("leader", "peer_0", "peer_1", "peer_2", "ensemble", "peers_mean")


def write(workdir, leader, teacher=0.0):
  """The records of a run: two evaluations, the ensemble ahead."""
  with records.Writer(workdir, tensorboard=False) as writer:
    for step in (1, 2):
      rates = {"loss": 3.0 / step, "accuracy": 0.4, "learning_rate": 0.1}
      writer.write(step, rates)
      values = {f"test/{name}/accuracy": leader * step for name in NAMES}
      values["test/ensemble/accuracy"] += teacher
      writer.write(step, values | {"test/diversity": 0.1}, kind="eval")


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
  """A run, the same method again, and two seeds of a single network."""
  root = tmp_path_factory.mktemp("together")
  workdirs = [root / "a", root / "b", root / "c" / "seed0", root / "c/seed1"]
  for workdir in workdirs:
    workdir.mkdir(parents=True)
    for name in ("config.json", "data.json"):
      shutil.copyfile(trained / name, workdir / name)
  for seed in (0, 1):
    path = root / "c" / f"seed{seed}" / "config.json"
    config = json.loads(path.read_text())
    config["method"] = {"name": "independent"}
    path.write_text(json.dumps(config | {"seed": seed}))
  for workdir, value in zip(workdirs, (0.25, 0.3, 0.4, 0.42), strict=True):
    write(workdir, value, 0.05)
  return [root / "a", root / "b", root / "c"]


def test_labels_are_as_short_as_they_can_be(runs):
  labels = [entry.label for entry in together.entries(runs)]
  group = "okddip, 3 replicas of resnet8"
  assert labels == [f"{group}, a", f"{group}, b", "independent"]
  assert [e.label for e in together.entries(runs[1:])] == [
    "okddip",
    "independent",
  ]


def test_one_table_has_all_runs(runs):
  (table,) = together.tables(together.entries(runs))
  cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  assert [row["deployed network"] for row in cells] == [
    "50.00",
    "60.00",
    "82.00 ± 2.83",
  ]
  assert cells[2]["ensemble"] == "87.00 ± 2.83"
  assert cells[2]["seeds"] == "2"
  assert {row["training batches"] for row in cells} >= {"40.00"}


def test_a_gap_is_what_the_teacher_is_ahead(runs):
  found = course.read(runs[2]).gaps
  curve = found[Figure("test", "ensemble", False, "accuracy")]
  np.testing.assert_allclose(curve.values, [0.05, 0.05])
  np.testing.assert_allclose(curve.deviation, 0, atol=1e-12)
  assert list(found) == [Figure("test", "ensemble", False, "accuracy")]


def test_pictures_show_every_run(runs, tmp_path):
  together_plots.plot(together.entries(runs), tmp_path)
  names = {path.stem for path in tmp_path.glob("*.png")}
  assert names == {"accuracy", "loss", "learning_rate", "diversity", "gap"}
  pixels = np.asarray(Image.open(tmp_path / "accuracy.png").convert("RGB"))
  seen = {
    "#" + bytes(p).hex().upper()
    for p in np.unique(pixels.reshape(-1, 3), axis=0)
  }
  assert set(canvas.COLORS[:3]) <= seen
  # Of the seeds alone there is a band.
  assert (tmp_path / "loss.svg").read_text().count('id="FillBetween') == 1


def test_a_gap_says_whose_it_is(runs, trained, tmp_path):
  def drawn(workdirs):
    figure = together_plots._gaps(together.entries(workdirs))
    lines = figure.axes[0].get_legend_handles_labels()[1]
    return figure.get_supylabel(), lines

  unit = "minus leader (% points)"
  assert drawn(runs[1:]) == (f"ensemble {unit}", ["okddip", "independent"])
  taught = tmp_path / "taught"
  shutil.copytree(runs[1], taught)
  config = json.loads((taught / "config.json").read_text())
  (taught / "config.json").write_text(
    json.dumps(config | {"teacher": str(runs[0])})
  )
  assert drawn([taught, runs[2]]) == (
    f"prediction {unit}",
    ["okddip: frozen teacher", "independent: ensemble"],
  )


def test_a_legend_names_lines_of_all_panels(runs, tmp_path):
  entries = together.entries(runs[1:])
  # One of the two has been measured on training batches only.
  course = dataclasses.replace(entries[0].course, evaluated={})
  entries[0] = dataclasses.replace(entries[0], course=course)
  figure = together_plots._headlines(
    dict(enumerate(entries)), entries[0].course.headline
  )
  (legend,) = figure.legends
  assert {text.get_text() for text in legend.get_texts()} == {
    "okddip",
    "independent",
  }


@pytest.mark.long
def test_the_page_begins_with_all_runs(runs, tmp_path):
  __main__.main(["report", *map(str, runs), f"--to={tmp_path / 'page.html'}"])
  text = (tmp_path / "page.html").read_text()
  assert text.index("Side by side") < text.index(f"<h2>{runs[0]}")
  assert "82.00 ± 2.83" in text
  assert "Side by side" not in report.run_section(runs[0], "s0")
