"""Plots of runs of any length, group and method."""

import json

import numpy as np
from PIL import Image
import pytest

from okd_jax.results import plots
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
  names = ("accuracy", "attention", "diversity", "loss")
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


def test_equal_runs_give_equal_files(workdir):
  with records.Writer(workdir, tensorboard=False) as writer:
    writer.write(1, {"loss": 3.0, "peer_ce": 2.0})
    writer.write(1, figures(3, 0.5), kind="eval")
  first = [path.read_bytes() for path in plots.plot(workdir)]
  second = [path.read_bytes() for path in plots.plot(workdir, workdir / "x")]
  assert first == second


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
  assert names == {"accuracy", "attention", "diversity", "gate", "loss"}


def test_a_run_without_records_is_drawn(workdir):
  assert len(plots.plot(workdir)) == 6
