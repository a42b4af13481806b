"""Whole runs on keypoints: saved, gone on with, exported, on two devices."""

import dataclasses
import functools
import json

import bucket_server
import jax
import jax.numpy as jnp
import numpy as np
from PIL import ExifTags, Image
import pytest

from configs import okdhp_stickfolk
from okd_jax import __main__, tasks, train
from okd_jax.data.keypoints import stickfolk
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import DataError
from okd_jax.runs import records, run as run_lib
from okd_jax.settings import build
from okd_jax.settings.freeze import freeze
from okd_jax.storage import paths
from okd_jax.training import finite, state as state_lib, step as steps
from okd_jax.weights import export, exported, predict
import runs

pytestmark = pytest.mark.long


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
  config.peers.net, config.peers.num_peers = "toys:hourglass", 2
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


@pytest.fixture(scope="module")
def leader(whole):
  """The exported leader."""
  to = whole[0] / "leader"
  export.export(run_lib.run(whole[0]), to)
  return to


@pytest.mark.parametrize("exported_too", [False, True])
def test_predict_says_what_is_measured(whole, folder, leader, exported_too):
  """With the boxes of the annotators, of which each picture has one."""
  run = run_lib.run(whole[0])
  batches = build.source(configured(folder)).evaluation("test")

  @jax.jit
  def rows_of(batch):
    logits, _ = steps.predict(run.setup, *run.deployed, batch)
    return run.setup.task.measure(logits[run.leader], batch).values

  measured = []
  for batch in batches:
    rows = rows_of(batch)
    measured += [
      (rows["points"][i], rows["peak"][i]) for i in np.flatnonzero(batch.mask)
    ]
  files = sorted((folder / "images").glob("test_*"))
  target = leader if exported_too else whole[0]
  boxes = folder / "annotations" / "test.json"
  results = predict.predict(target, files, boxes=boxes)
  for result, (points, peak) in zip(results, measured, strict=True):
    (figure,) = result["predictions"]
    table = np.array(figure["keypoints"]).reshape(-1, 3)
    np.testing.assert_allclose(table[:, :2], points, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(table[:, 2], peak, rtol=1e-3, atol=1e-6)


def test_predict_finds_joints_where_people_see_them(leader, folder, tmp_path):
  """A whole picture, and the same one, stored lying on its side."""
  file = sorted((folder / "images").glob("test_*"))[0]
  photos = tmp_path / "photos"
  photos.mkdir()
  turned = photos / "turned.png"
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = 6
  with Image.open(file) as image:
    wide = Image.new("RGB", (120, 96))
    wide.paste(image)
    wide.save(photos / "upright.png")
    wide.rotate(90, expand=True).save(turned, exif=exif)
  (photos / "broken.png").write_bytes(file.read_bytes()[:100])
  arguments = ["predict", str(leader), str(photos)]
  arguments += [f"--to={tmp_path}/found.json", f"--draw={tmp_path}/drawn"]
  with pytest.raises(SystemExit) as left:
    __main__.main(arguments)
  assert left.value.code == DataError.exit_code
  found = json.loads((tmp_path / "found.json").read_text())
  one, other = ({**f, "image_id": 0, "file_name": ""} for f in found)
  assert one == other
  assert one["box"] == [0, 0, 120, 96]
  assert len(one["keypoints"]) == 48 and one["category_id"] == 1
  names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
  assert names == ["turned.png", "upright.png"]
  with Image.open(tmp_path / "drawn" / "turned.png") as drawn:
    assert drawn.size == (120, 96)


def test_the_crop_of_a_whole_picture_holds_just_it(leader, tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  Image.fromarray(picture).save(tmp_path / "a.png")
  task = tasks.load("keypoints")
  card = exported.read_card(leader)
  card["keypoints"]["category_id"] = 5
  asking = task.asking(card)
  asked = asking.question(tmp_path / "a.png", 1)
  assert [crop.given.category_id for crop in asked.about] == [5]
  inputs = np.rint(255 * asking.inputs(asked.views))
  np.testing.assert_array_equal(inputs, [picture, picture[:, ::-1]])


@pytest.mark.long
def test_plot_shows_figures_in_a_bucket(whole):
  with bucket_server.serving("okd-figures"):
    __main__.main(["plot", str(whole[0]), "--to=gs://okd-figures/plots"])
    figures = paths.anywhere("gs://okd-figures/plots/figures.png")
    assert figures.read_bytes().startswith(b"\x89PNG")


def test_plot_shows_figures_of_the_validation_split(whole, tmp_path, capsys):
  __main__.main(["plot", str(whole[0]), f"--to={tmp_path}"])
  assert str(tmp_path / "figures.png") in capsys.readouterr().out
  with Image.open(tmp_path / "figures.png") as sheet:
    # All six of the test split, in rows of four.
    assert sheet.size == (4 * 192, 2 * 192)


@pytest.mark.checklist("A4")
@pytest.mark.slow  # conformance has the meshes, without pictures
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
