"""Whole runs on keypoints: saved, gone on with, exported, on two devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import okdhp_stickfolk
from okd_jax import train
from okd_jax.data.keypoints import stickfolk
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import DataError
from okd_jax.runs import records, run as run_lib
from okd_jax.settings import build
from okd_jax.settings.freeze import freeze
from okd_jax.training import finite, state as state_lib, step as steps
from okd_jax.weights import export, exported
import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Drawn figures, as people bring their own."""
  path = tmp_path_factory.mktemp("figures")
  for seed, (split, count) in enumerate({"train": 20, "test": 6}.items()):
    stickfolk.write(path, split, "easy", count, seed)
  return path


def configured(folder, **changes):
  """Five steps; the first epoch ends inside the third."""
  config = okdhp_stickfolk.get_config("smoke")
  config.data.name = f"keypoints:{folder}"
  config.data.image_size = 16
  config.data.train_examples = 0
  config.peers.net = "toys:hourglass"
  config.mesh.data = 1
  config.batch_size, config.eval_batch_size = 8, 4
  config.epochs, config.rampup_epochs, config.eval_epochs = 2, 1, 1
  config.checkpoint_secs = 1e-9
  config.update_from_flattened_dict(changes)
  return freeze(config)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
  """An undisturbed run, with a checkpoint after every step."""
  workdir = tmp_path_factory.mktemp("whole")
  state, summary = train.train(configured(folder), workdir)
  return workdir, jax.device_get(state), summary


class Stopped(Exception):
  """Ends a run in the middle, as a lost machine would."""


@pytest.mark.checklist("B1")
def test_a_resumed_run_is_the_same_to_the_last_bit(
  whole, folder, tmp_path, monkeypatch
):
  workdir, expected, summary = whole
  check = finite.check_measures

  def stop(step, measured):
    if step == 3:
      raise Stopped
    return check(step, measured)

  monkeypatch.setattr(finite, "check_measures", stop)
  with pytest.raises(Stopped):
    train.train(configured(folder), tmp_path)
  monkeypatch.undo()
  state, again = train.train(configured(folder), tmp_path)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)
  assert again["last"] == summary["last"]
  assert again["last"]["step"] == 5
  for name in ("leader", "aggregated", "reference_exact_targets"):
    assert 0 <= again["last"][f"test/{name}/pckh"] <= 1
  assert records.read_metrics(tmp_path) == records.read_metrics(workdir)


def test_a_run_does_not_go_on_with_other_annotations(whole, folder, tmp_path):
  other = tmp_path / "other"
  stickfolk.write(other, "train", "easy", 20, 7)
  stickfolk.write(other, "test", "easy", 6, 1)
  config = configured(folder, **{"data.dir": str(other)})
  with pytest.raises(DataError, match="changed .annotations/train.json"):
    run_lib.require_same_data(whole[0], build.source(config))


@pytest.fixture(scope="module")
def predicted(whole, folder):
  """A finished run, some of its pictures and what it says of them."""
  run = run_lib.run(whole[0])
  batch = next(build.source(configured(folder)).evaluation("test"))
  seen = run.setup.task.normalize(batch)
  predict = jax.jit(functools.partial(steps.predict_normalized, run.setup))
  logits, named = predict(*run.deployed, seen)
  return run, seen, {"leader": logits[run.leader]} | named


@pytest.mark.parametrize("what", ["leader", "aggregated"])
def test_what_is_exported_says_the_same(predicted, what, tmp_path):
  run, seen, expected = predicted
  export.export(run, tmp_path / "net", what)
  apply, variables = exported.load_leader(tmp_path / "net")
  crops = np.asarray(seen.image) * run.info.std + run.info.mean
  found = apply(variables, crops.astype(np.float32))
  assert found.shape == (4, 4, 4, 16)
  np.testing.assert_allclose(found, expected[what], rtol=1e-4, atol=1e-5)


@pytest.mark.checklist("A4")
def test_two_devices_end_where_one_does(folder):
  """In float64, augmentation included."""

  def end(devices, start=None):
    config = configured(folder, **{"mesh.data": devices})
    mesh = mesh_lib.make_mesh(devices, 1)
    source = build.source(config, mesh)
    setup = build.setup(config, source.info, source.train_size, mesh)
    task = dataclasses.replace(setup.task, image_dtype=jnp.float64)
    setup = dataclasses.replace(setup, task=task)
    start = jax.device_get(runs.start(setup)) if start is None else start
    state = mesh_lib.place(start, state_lib.shardings(setup, start))
    step = runs.jitted(setup, state)
    for _, batch in zip(range(3), source.batches(0), strict=False):
      state, measured = step(state, batch, jax.random.key(1), None, None)
    return start, jax.device_get((state, measured))

  with jax.enable_x64(True):
    start, one = end(1)
    _, two = end(2, start)
  assert one[1]["gradient_norm"].dtype == np.float64
  runs.assert_close(two, one, 1e-9)
