"""Frozen teachers: from a run, from PyTorch, and what is refused."""

import dataclasses
import json
import shutil

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import common, kd_digits
from okd_jax import backbones, train
from okd_jax.data.info import KNOWN
from okd_jax.devices import mesh as mesh_lib
from okd_jax.errors import ConfigError
from okd_jax.runs import run as run_lib, same_teacher
from okd_jax.settings import build, config as config_lib
from okd_jax.settings.freeze import as_dict, freeze
from okd_jax.weights import teacher, torch as interop

INFO = KNOWN["digits"]
IMAGES = jax.random.normal(jax.random.key(0), (8, *INFO.image_shape))


def configured(path, net="", **changes):
  config = kd_digits.get_config("smoke")
  config.batch_size = 24
  config.teacher, config.teacher_net = str(path), net
  config.update(changes)
  return freeze(config)


def logits_of(group, variables):
  outputs, _ = jax.jit(
    lambda v, x: group.apply(v, x, jax.random.key(0), train=False)
  )(variables, IMAGES)
  return outputs.logits


def alone(net, variables):
  run = jax.jit(lambda v, x: net.apply(v, x, train=False).logits)
  return run(variables, IMAGES)


def test_teacher_is_what_a_run_deploys(trained):
  mesh = mesh_lib.make_mesh(2, 2)
  group, variables = teacher.load(configured(trained), INFO, mesh)
  run = run_lib.run(trained)
  expected = alone(*run.setup.peers.extract(run.peers_variables, run.leader))
  assert group.num_peers == 1
  # All devices share its work.
  assert dict(group.mesh.shape) == {"data": 4, "peer": 1}
  np.testing.assert_allclose(
    logits_of(group, variables)[0], expected, atol=1e-5
  )


def test_a_teacher_that_has_not_finished_is_named(trained, tmp_path, caplog):
  mesh = mesh_lib.make_mesh(1)
  teacher.load(configured(trained), INFO, mesh)
  assert "not a finished run" not in caplog.text
  begun = tmp_path / "begun"
  shutil.copytree(trained, begun)
  (begun / "summary.json").unlink()
  teacher.load(configured(begun), INFO, mesh)
  assert f"config.teacher='{begun}' is not a finished run" in caplog.text
  assert "of step 5 of 5." in caplog.text


def test_teacher_from_a_state_dict(tmp_path):
  net = backbones.make("resnet8", INFO.num_classes)
  variables = jax.jit(lambda key: net.init(key, IMAGES, train=False))(
    jax.random.key(1)
  )
  path = tmp_path / "teacher.safetensors"
  safetensors.numpy.save_file(interop.to_torch(variables), path)
  config = configured(path, "resnet8")
  group, loaded = teacher.load(config, INFO, mesh_lib.make_mesh(1))
  np.testing.assert_allclose(
    logits_of(group, loaded)[0], alone(net, variables), atol=1e-6
  )
  with pytest.raises(ConfigError, match="does not hold a resnet20"):
    teacher.load(configured(path, "resnet20"), INFO, mesh_lib.make_mesh(1))


def test_other_data_are_refused(trained):
  mesh = mesh_lib.make_mesh(1)
  other = dataclasses.replace(INFO, num_classes=11)
  with pytest.raises(ConfigError, match="num_classes=10"):
    teacher.load(configured(trained), other, mesh)
  config = configured(trained, image_mean=(0.5,))
  with pytest.raises(ConfigError, match="with mean="):
    teacher.load(config, INFO, mesh)
  for batch_size, parts in ((22, 1), (24, 4)):
    config = configured(trained, batch_size=batch_size, accumulate=parts)
    with pytest.raises(ConfigError, match=f"{parts} part.* 4 device"):
      teacher.load(config, INFO, mesh_lib.make_mesh(2, 2))


@pytest.mark.checklist("G2")
def test_a_teacher_may_move_but_not_change(trained, tmp_path):
  first, second, moved = (tmp_path / name for name in ("1", "2", "moved"))
  shutil.copytree(trained, moved)
  config, elsewhere = configured(trained), configured(moved)
  for workdir in (first, second):
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(as_dict(config)))
  _, weights = teacher.load(config, INFO, mesh_lib.make_mesh(2, 2))
  same_teacher.remember(first, weights)
  _, weights = teacher.load(elsewhere, INFO, mesh_lib.make_mesh(1))
  same_teacher.require(elsewhere, first, weights)
  others = jax.tree.map(lambda leaf: leaf + 1, weights)
  for other in (others, None):
    with pytest.raises(ConfigError, match="must be the network that it began"):
      same_teacher.require(config, first, other)
  # A run of an earlier release.
  same_teacher.require(config, second, weights)
  with pytest.raises(ConfigError, match=f"must be '{trained}', as when the"):
    same_teacher.require(elsewhere, second, weights)


@pytest.mark.long
def test_a_run_goes_on_with_a_teacher_that_moved(trained, tmp_path):
  before, after = tmp_path / "before", tmp_path / "after"
  shutil.copytree(trained, before)
  train.train(configured(before), tmp_path / "run")
  before.rename(after)
  longer = configured(after, extra_epochs=1)
  state, _ = train.train(longer, tmp_path / "run")
  whole, _ = train.train(longer, tmp_path / "whole")
  chex.assert_trees_all_equal(state.params, whole.params)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({}, "needs a trained teacher"),
    ({"teacher": "no/where"}, "must be an existing path"),
    ({"teacher": __file__}, "config.teacher_net=''"),
    ({"method": "dml", "teacher": "."}, "has no teacher"),
  ],
)
def test_configuration_is_refused_early(changes, words):
  changes = dict(changes)
  config = kd_digits.get_config()
  if changes.pop("method", None):
    config.method = common.method("independent")
  config.update(changes)
  with pytest.raises(ConfigError, match=words):
    config_lib.check(freeze(config))


def test_file_needs_its_network(tmp_path):
  path = tmp_path / "a.pth"
  path.touch()
  config = kd_digits.get_config()
  config.teacher = str(path)
  with pytest.raises(ConfigError, match="config.teacher_net=''"):
    config_lib.check(freeze(config))


def test_one_number_a_channel():
  config = configured("", image_std=(0.5, 0.5))
  with pytest.raises(ConfigError, match="each of the 1 channels"):
    build.with_normalization(config, INFO)
  config = configured("", image_std=(0.5,))
  assert build.with_normalization(config, INFO).std == (0.5,)
