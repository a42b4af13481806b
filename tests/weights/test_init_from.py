"""Fine-tuning: trained weights for other classes, from everywhere."""

import dataclasses
import json
import pathlib
import shutil

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import own_networks
from PIL import Image
import pytest
from safetensors import numpy as safetensors
import torch_files

from configs import okddip_digits
from okd_jax import backbones, tasks, train
from okd_jax.backbones import hourglass
from okd_jax.data.keypoints.info import KeypointInfo
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError, DataError, OkdError, WeightsError
from okd_jax.runs import run as run_lib
from okd_jax.settings import build
from okd_jax.settings.freeze import freeze, method_section, replace
from okd_jax.training import state as state_lib
from okd_jax.weights import (
  classifier as classifier_lib,
  exported,
  init_from,
  teacher,
  torch as interop,
)
import toys

# Classes of another run.
OTHERS = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A finished run of ten classes."""
  config = okddip_digits.get_config("smoke")
  config.peers.net, config.peers.num_peers = "own_networks:Small", 3
  config.mesh.data = 1
  config.epochs, config.rampup_epochs = 1, 1
  workdir = tmp_path_factory.mktemp("init") / "run"
  train.train(freeze(config), workdir)
  return workdir


def setup_like(trained, class_names=None, **peers):
  """A new run of the same networks, of other classes."""
  config, info, train_size = run_lib.about(trained)
  config = replace(config, {f"peers.{name}": v for name, v in peers.items()})
  if class_names:
    info = dataclasses.replace(
      info, class_names=class_names, num_classes=len(class_names)
    )
  return build.setup(config, info, train_size, make_mesh(1, 1))


def test_weights_of_an_unfinished_run_are_named(trained, tmp_path, caplog):
  filled(setup_like(trained), trained)
  assert "not a finished run" not in caplog.text
  begun = tmp_path / "begun"
  shutil.copytree(trained, begun)
  (begun / "summary.json").unlink()
  filled(setup_like(trained), begun)
  assert f"config.init_from='{begun}' is not a finished run" in caplog.text


def filled(setup, path, **options):
  """The variables of every peer, drawn and filled."""
  drawn = state_lib.init(setup, jax.random.key(5))
  state = init_from.fill(setup, drawn, path, **options)
  return [
    [
      exported.flatten(
        setup.peers.extract(
          state_lib.variables(each.params, each.memory, "peers"), peer
        )[1]
      )
      for peer in range(setup.peers.num_peers)
    ]
    for each in (drawn, state)
  ]


def network(trained, peer):
  run = run_lib.run(trained)
  return exported.flatten(run.setup.peers.extract(run.peers_variables, peer)[1])


@pytest.fixture(scope="module", params=["run", "leader", "pth", "safetensors"])
def source(request, trained, tmp_path_factory):
  """Where weights come from, and the network for each peer."""
  leader = run_lib.run(trained).leader
  if request.param == "run":
    return trained, [network(trained, peer) for peer in range(3)]
  weights = network(trained, leader)
  if request.param == "leader":
    return trained / "leader", [weights] * 3
  state_dict = interop.to_torch(exported.unflatten(weights))
  path = tmp_path_factory.mktemp("weights") / "net.safetensors"
  safetensors.save_file(state_dict, path)
  if request.param == "pth":
    with pytest.MonkeyPatch.context() as patch:
      save = torch_files.saver(patch, path.parent)
      tensors = {k: torch_files.Tensor(v) for k, v in state_dict.items()}
      path = save({"epoch": 1, "model": tensors}, "net.pth.tar")
  return path, [weights] * 3


@pytest.mark.parametrize("classes", [OTHERS, None], ids=["others", "the same"])
def test_classifiers_are_drawn_anew(trained, source, classes):
  path, networks = source
  before, after = filled(setup_like(trained, classes), path, head=False)
  for drawn, now, weights in zip(before, after, networks, strict=True):
    assert set(now) == set(weights)
    for name, value in now.items():
      expected = drawn[name] if "Dense" in name else weights[name]
      np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize("classes", [OTHERS, None], ids=["others", "the same"])
def test_a_hidden_layer_as_wide_as_the_classes_is_taken(
  trained, tmp_path, classes
):
  net = own_networks.Hidden(10)
  weights = net.init(jax.random.key(1), np.zeros((1, 8, 8, 1)), train=False)
  path = tmp_path / "net.safetensors"
  safetensors.save_file(interop.to_torch(weights), path)
  setup = setup_like(trained, classes, net="own_networks:Hidden")
  before, after = filled(setup, path, head=False)
  for drawn, now in zip(before, after, strict=True):
    for name, value in exported.flatten(weights).items():
      expected = drawn[name] if "last" in name else value
      np.testing.assert_array_equal(now[name], expected, err_msg=name)


def test_heads_that_are_no_linear_layers_are_drawn_anew(trained):
  setup = setup_like(trained)
  net = hourglass.Hourglass(10, stacks=2, width=4, depth=1)
  own = exported.flatten(
    jax.eval_shape(
      lambda key: net.init(key, setup.example_images(), train=False),
      jax.random.key(0),
    )
  )
  heads = classifier_lib.names(setup, net, own)
  # Heat maps leave each stack, and enter the next one again.
  kernels = {name for name in heads if name.endswith("/kernel")}
  assert {tuple(own[name].shape) for name in kernels} == {
    (1, 1, 4, 10),
    (1, 1, 10, 4),
  }
  assert len(kernels) == 3


def posed():
  """A network for keypoints, and a setup for it."""
  info = dataclasses.replace(
    toys.INFO,
    task="keypoints",
    image_shape=(16, 16, 1),
    keypoints=KeypointInfo((), (), ()),
  )
  net, task = toys.hourglass(info.num_classes), tasks.load("keypoints")
  return net, toys.recipe(
    "independent", task=task.of(info), net=net, num_peers=1
  )


def test_heat_maps_are_read_from_pytorch(tmp_path):
  net, setup = posed()
  weights = net.init(jax.random.key(1), setup.example_images(), train=False)
  path = tmp_path / "net.safetensors"
  safetensors.save_file(interop.to_torch(weights), path)
  (leader,) = filled(setup, path)[1]
  for name, value in exported.flatten(weights).items():
    np.testing.assert_array_equal(leader[name], value, err_msg=name)


@pytest.mark.parametrize("head", [True, False])
def test_state_of_a_networks_own_keeps_its_initial_values(
  trained, tmp_path, head
):
  """PyTorch has no counterpart for it."""
  setup = setup_like(trained, net="own_networks:Foreign", num_peers=2)
  net = setup.peers.stacks[0].net
  weights = net.init(jax.random.key(1), setup.example_images(), train=False)
  path = tmp_path / "net.safetensors"
  safetensors.save_file(interop.to_torch(weights), path)
  drawn, found = filled(setup, path, head=head)
  assert any(name.startswith("moving/") for name in drawn[0])
  kept = ("moving/",) if head else ("moving/", "params/last/")
  for name, value in exported.flatten(weights).items():
    expected = drawn[setup.leader][name] if name.startswith(kept) else value
    np.testing.assert_array_equal(found[setup.leader][name], expected, name)


def classifier(setup, *layers):
  """Names of the arrays of the classifier of layers that do not say."""
  net = nn.Sequential(layers)
  own = net.init(jax.random.key(0), np.zeros((1, 4, 4, 4)))
  return classifier_lib.names(setup, net, exported.flatten(own))


@pytest.mark.parametrize("last", [nn.Dense(10), nn.Conv(10, (1, 1))])
def test_networks_that_do_not_say_lose_the_layer_of_that_width(trained, last):
  assert classifier(setup_like(trained), nn.Dense(4), last) == {
    "params/layers_1/bias",
    "params/layers_1/kernel",
  }


@pytest.mark.parametrize(
  "layers",
  [(nn.Dense(10), nn.Conv(10, (1, 1))), (nn.Dense(4), lambda x: x[..., :1])],
  ids=["two", "none"],
)
def test_a_classifier_that_cannot_be_told_is_refused(trained, layers):
  with pytest.raises(ConfigError, match="a field `num_classes`"):
    classifier(setup_like(trained), *layers)


def test_a_run_that_has_begun_needs_the_weights_no_more(trained, monkeypatch):
  monkeypatch.delenv("NOWHERE", raising=False)
  config = replace(
    run_lib.about(trained)[0], {"init_from": "$NOWHERE/weights.pth"}
  )
  init_from.check(config, trained)
  with pytest.raises(ConfigError, match="NOWHERE"):
    init_from.check(config, trained / "new")


def test_the_leader_keeps_its_classifier(trained, source):
  path, networks = source
  before, after = filled(setup_like(trained), path)
  for peer in range(3):
    for name, value in after[peer].items():
      anew = "Dense" in name and path != trained and peer != 2
      expected = before[peer][name] if anew else networks[peer][name]
      np.testing.assert_array_equal(value, expected, err_msg=name)


def test_other_classes_are_refused_with_the_remedy(trained, source):
  path, _ = source
  with pytest.raises(OkdError, match="init_from_head=false"):
    filled(setup_like(trained, OTHERS), path)
  # A file of PyTorch knows no names.
  if path.is_dir():
    with pytest.raises(DataError, match="gone are 9, new are ten"):
      filled(setup_like(trained, (*map(str, range(9)), "ten")), path)
    with pytest.raises(DataError, match="class 0 was '0' and is '9'"):
      filled(setup_like(trained, tuple("9123456780")), path)


@pytest.mark.parametrize("part", [".", "leader"])
def test_weights_of_another_task_are_refused(trained, part):
  _, setup = posed()
  with pytest.raises(ConfigError, match="'classification', .* 'keypoints'"):
    filled(setup, trained / part, head=False)


def test_another_network_is_refused(trained, source):
  path, _ = source
  other = setup_like(trained, OTHERS, net="own_networks:Wide")
  with pytest.raises(OkdError, match="config.init_from=.*Conv_0|BatchNorm_0"):
    filled(other, path, head=False)


def test_a_group_of_another_size_names_the_leader(trained):
  fewer = setup_like(trained, OTHERS, num_peers=2)
  with pytest.raises(ConfigError, match="3 peers, and this run has 2.*leader"):
    filled(fewer, trained, head=False)
  filled(fewer, trained / "leader", head=False)


def test_files_that_are_no_weights_are_refused(trained, tmp_path):
  (tmp_path / "a.bin").write_bytes(b"nothing")
  with pytest.raises(
    WeightsError, match="config.init_from='.*a.bin': .*neither .safetensors nor"
  ):
    filled(setup_like(trained), tmp_path / "a.bin")
  assert WeightsError.exit_code == 5


def test_a_file_of_an_exported_network_is_refused(trained, tmp_path):
  leader = trained / "leader"
  config, *_ = run_lib.about(trained)
  for name in (exported.CARD, exported.WEIGHTS, exported.PROGRAM):
    one = replace(config, {"init_from": str(leader / name)})
    with pytest.raises(ConfigError, match="name the whole folder, .*leader"):
      init_from.check(one, tmp_path)
  init_from.check(replace(config, {"init_from": str(leader)}), tmp_path)


def test_an_exported_network_is_no_teacher(trained):
  run = run_lib.run(trained)
  leader = trained / "leader"
  for place, net in ((leader, ""), (leader / exported.WEIGHTS, "resnet8")):
    teaching = replace(run.config, {"teacher": str(place), "teacher_net": net})
    with pytest.raises(ConfigError, match="name the work directory of its run"):
      teacher.load(teaching, run.info, make_mesh(1))


@pytest.mark.long
def test_a_run_is_tuned_to_ones_own_classes(trained, tmp_path):
  for name in OTHERS[:2]:
    (tmp_path / "set" / name).mkdir(parents=True)
    for i in range(10):
      pixels = np.full((8, 8), 9 * i, np.uint8)
      Image.fromarray(pixels).save(tmp_path / "set" / name / f"{i}.png")
  config = replace(
    run_lib.about(trained)[0],
    {
      "data.name": f"folder:{tmp_path / 'set'}",
      "data.image_size": 8,
      "data.train_examples": 0,
      "batch_size": 8,
      "init_from": str(trained / "leader"),
    },
  )
  # The folder's pictures have colours, and the digits have none.
  with pytest.raises(OkdError, match="init_from"):
    train.train(config, tmp_path / "a")
  first = replace(config, {"init_from": ""})
  train.train(first, tmp_path / "a")
  shutil.copytree(tmp_path / "set" / "cat", tmp_path / "set" / "owl")
  tuned = replace(
    config, {"init_from": str(tmp_path / "a"), "init_from_head": False}
  )
  assert int(train.train(tuned, tmp_path / "b")[0].step) == 3


@pytest.mark.parametrize("task", ["classification", "keypoints"])
def test_an_exported_leader_of_another_order_is_refused(task, monkeypatch):
  info = dataclasses.replace(
    toys.INFO, task=task, keypoints=KeypointInfo((), (), ())
  )
  turned = dataclasses.replace(info, class_names=info.class_names[::-1])
  kind = tasks.load(task)
  setup = toys.recipe("independent", task=kind.of(info))
  monkeypatch.setattr(exported, "read_card", lambda path: kind.card(turned))
  monkeypatch.setattr(exported, "read_weights", lambda path, card: {})
  with pytest.raises(DataError, match="in another order: class 0 was 'e'"):
    init_from._from_leader(setup, {}, pathlib.Path("leader"), head=True)


# A teacher whose classes are in another order.


@pytest.fixture
def shuffled(trained, tmp_path):
  """The same run, as if its classes had been in another order."""
  workdir = shutil.copytree(trained, tmp_path / "shuffled")
  about = json.loads((workdir / "data.json").read_text())
  about["class_names"] = list("3176204985")
  (workdir / "data.json").write_text(json.dumps(about))
  return workdir


def taught(trained, path, mesh):
  config, info, _ = run_lib.about(trained)
  config = dataclasses.replace(config, teacher=str(path))
  group, variables = teacher.load(config, info, mesh)
  images = jnp.asarray(
    np.random.default_rng(0).normal(size=(4, *info.image_shape)), jnp.float32
  )
  outputs, _ = group.apply(variables, images, jax.random.key(0), train=False)
  return outputs


def test_a_teacher_is_reordered_by_the_names_of_classes(
  trained, shuffled, caplog
):
  mesh = make_mesh(1, 1)
  plain = taught(trained, trained, mesh)
  assert not caplog.text
  outputs = taught(trained, shuffled, mesh)
  order = [int(name) for name in "3176204985"]
  # Column j of the teacher is class order[j].
  np.testing.assert_array_equal(outputs.logits[..., order], plain.logits)
  np.testing.assert_array_equal(outputs.features, plain.features)
  assert "in another order than here" in caplog.text


def test_a_reordered_teacher_shows_the_maps_that_a_student_shows():
  images = jnp.ones((2, 16, 16, 3))
  net = backbones.make("wrn16_1", 3)
  variables = net.init(jax.random.key(0), images, train=False)
  expected = net.clone(raw_maps=True).apply(variables, images, train=False)
  reordered = teacher._with_raw_maps(teacher.Reordered(net, (2, 0, 1)))
  inside = {name: {"net": tree} for name, tree in variables.items()}
  outputs = reordered.apply(inside, images, train=False)
  np.testing.assert_array_equal(outputs.maps[-1], expected.maps[-1])
  np.testing.assert_array_equal(
    outputs.logits, expected.logits[..., jnp.array([2, 0, 1])]
  )


@pytest.mark.long
def test_a_student_learns_from_a_reordered_teacher(trained, shuffled, tmp_path):
  config = dataclasses.replace(
    run_lib.about(trained)[0],
    method=method_section("kd"),
    teacher=str(shuffled),
  )
  state, result = train.train(config, tmp_path / "student")
  assert int(state.step) == 5
  assert np.isfinite(result["terms"]["peer_kd"])
  assert run_lib.run(tmp_path / "student").step == 5


def test_a_teacher_of_other_classes_is_refused(trained, shuffled):
  about = json.loads((shuffled / "data.json").read_text())
  about["class_names"][0] = "three"
  (shuffled / "data.json").write_text(json.dumps(about))
  with pytest.raises(DataError, match="gone are three, new are 3"):
    taught(trained, shuffled, make_mesh(1, 1))
