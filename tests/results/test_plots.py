"""Plots of runs of any length, group and method."""

import json

import numpy as np
from PIL import Image
import pytest

from okd_jax.results import canvas, plots, report
from okd_jax.runs import records


@pytest.fixture
def workdir(trained, tmp_path):
  """What is known about a run, without its records."""
  for name in ("config.json", "data.json"):
    (tmp_path / name).write_bytes((trained / name).read_bytes())
  return tmp_path


def figures(num_peers, value):
  names = [f"peer_{i}" for i in range(num_peers)]
  names += ["leader", "ensemble", "peers_mean"]
  return {f"test/{n}/accuracy": value for n in names} | {"test/diversity": 0.1}


def test_a_finished_run_is_drawn(trained):
  files = sorted(path.name for path in (trained / "plots").iterdir())
  names = "accuracy attention diversity gap learning_rate loss".split()
  assert files == [f"{n}.{s}" for n in names for s in ("png", "svg")]


def test_a_picture_shows_every_curve_in_its_colour(workdir):
  with records.Writer(workdir, tensorboard=False) as writer:
    for step in range(1, 6):
      writer.write(step, {"loss": 3.0, "peer_ce": 2.0 / step, "peer_kd": 1.0})
  plots.plot(workdir)
  image = np.asarray(Image.open(workdir / "plots/loss.png").convert("RGB"))
  seen = {
    "#" + bytes(pixel).hex().upper()
    for pixel in np.unique(image.reshape(-1, 3), axis=0)
  }
  # The sum, and two terms.
  assert {"#000000", "#0072B2", "#E69F00"} <= seen
  assert "#009E73" not in seen


@pytest.mark.long
def test_equal_runs_give_equal_files(workdir):
  with records.Writer(workdir, tensorboard=False) as writer:
    writer.write(1, {"loss": 3.0, "peer_ce": 2.0})
    writer.write(1, figures(3, 0.5), kind="eval")
  first = [path.read_bytes() for path in plots.plot(workdir)]
  second = [path.read_bytes() for path in plots.plot(workdir, workdir / "x")]
  assert first == second


@pytest.mark.long
def test_not_finite_values_and_large_groups_are_drawn(workdir):
  config = json.loads((workdir / "config.json").read_text())
  config["peers"]["num_peers"] = 9
  (workdir / "config.json").write_text(json.dumps(config))
  with records.Writer(workdir, tensorboard=False) as writer:
    for step in (1, 2):
      attention = {
        f"attention/{i}/{j}": 1 / 8 for i in range(8) for j in range(8)
      }
      losses = {"loss": float("nan"), "peer_ce": float("nan"), "gate/0": 1.0}
      writer.write(step, losses | attention)
      value = 0.1 if step == 1 else float("nan")
      writer.write(step, figures(9, value), kind="eval")
  names = {path.stem for path in plots.plot(workdir)}
  assert names == {
    *("accuracy", "attention", "diversity", "gap", "gate", "loss")
  }


def shown_colors(path):
  image = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
  colors, counts = np.unique(image, axis=0, return_counts=True)
  return {
    "#" + bytes(color).hex().upper(): count
    for color, count in zip(colors, counts, strict=True)
  }


@pytest.mark.long
def test_a_single_evaluation_is_a_mark(workdir):
  with records.Writer(workdir, tensorboard=False) as writer:
    apart = {"test/peer_0/accuracy": 0.4}  # not below another mark
    writer.write(9, figures(3, 0.5) | apart, kind="eval")
  plots.plot(workdir)
  found = shown_colors(workdir / "plots/accuracy.png")
  # Beside its key in the legend, which is as large.
  assert found[canvas.COLORS[0]] > 300
  assert shown_colors(workdir / "plots/diversity.png")[canvas.COLORS[0]] > 150


@pytest.mark.long
def test_one_network_is_not_drawn_as_a_group(workdir):
  config = json.loads((workdir / "config.json").read_text())
  config["peers"]["num_peers"] = 1
  config["method"] = {"name": "independent"}
  (workdir / "config.json").write_text(json.dumps(config))
  with records.Writer(workdir, tensorboard=False) as writer:
    for step in (1, 2):
      writer.write(step, {"loss": 3.0, "peer_ce": 3.0, "accuracy": 0.3})
      writer.write(step, figures(1, 0.5 + 0.1 * step), kind="eval")
  assert {p.stem for p in plots.plot(workdir)} == {"accuracy", "loss"}
  found = shown_colors(workdir / "plots/accuracy.png")
  assert canvas.COLORS[0] not in found and "#D55E00" not in found
  assert "#888888" in found
  text = report.run_section(workdir, "s0")
  assert "test/leader" in text and "70.00 %" in text
  for words in ("peer_0", "peers_mean", "ensemble", "diversity"):
    assert words not in text


def test_a_run_without_records_is_drawn(workdir):
  assert len(plots.plot(workdir)) == 6
