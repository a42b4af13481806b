"""PyTorch weights in and out. Parity of logits is in test_backbones.py."""

import argparse
import collections
import datetime
import functools
import os
import pathlib
import pickle
import random
import re
import sys
import types
import zipfile

import fingerprints
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
from safetensors import numpy as safetensors
import torch_files
from torch_files import Tensor

from okd_jax import backbones, layers
from okd_jax.errors import WeightsError
from okd_jax.weights import (
  exported,
  torch as interop,
  torch_archive,
  torch_layers,
)

ROOT = pathlib.Path(__file__).parents[2]


def shapes_of(net, image=(32, 32, 3)):
  x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
  return jax.eval_shape(
    lambda x: net.init(jax.random.key(0), x, train=False), x
  )


def case(name):
  layers_of = fingerprints.CASES[f"{name}/single"]["layers"]
  net = backbones.make(fingerprints.NETWORKS[name], 10)
  return shapes_of(net), fingerprints.state_dict(layers_of)


def assert_same(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def without_counters(state):
  return {
    name: value
    for name, value in state.items()
    if not name.endswith("num_batches_tracked")
  }


# One or two of each family.
QUICK = (
  "convnext_tiny",
  "densenet40_12",
  "mobilenet_v2_05",
  "resnet110_basic",
  "resnet32x4",
  "resnet50",
  "shufflenet_v2_05",
  "vgg16",
  "vit_tiny_p16",
  "wrn40_2",
)


# Hourglasses have the order of declaration: see test_backbones_hourglass.py.
@pytest.mark.parametrize(
  "name",
  quick.only(
    QUICK, [n for n in backbones.names() if not n.startswith("hourglass")]
  ),
)
def test_names_sort_in_the_order_of_the_layers(name):
  called = []

  def record(next_fun, args, kwargs, context):
    kinds = nn.Conv, nn.Dense, layers.BatchNorm
    if isinstance(context.module, kinds) and context.method_name == "__call__":
      called.append("/".join(context.module.path))
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(record):
    shapes_of(backbones.make(name, 10))
  assert (
    sorted(random.sample(called, len(called)), key=torch_layers.forward_order)
    == called
  )


@pytest.mark.parametrize(
  ("names", "reason"),
  [
    ("stem stage1_block2 stage1_block10 stage2_block0 head_linear", "natural"),
    ("conv1 dense1.0 trans1 dense2.0 trans2 bn fc", "number, then name"),
    ("stem/conv stage1/block0/conv1 head/fc0 head/fc1", "head last"),
    ("module.layer1.9.conv1 module.layer1.10.conv1 module.fc", "prefix"),
  ],
)
def test_forward_order(names, reason):
  names = names.split()
  assert sorted(sorted(names), key=torch_layers.forward_order) == names, reason


@pytest.mark.long
def test_loads_restored_and_alphabetical_trees_alike():
  shapes, state = case("resnet110")
  expected = interop.load_torch(shapes, state)
  # A .safetensors file keeps alphabetical order only: block10 before block2.
  alphabetical = {name: state[name] for name in sorted(without_counters(state))}
  assert list(alphabetical) != list(without_counters(state))
  assert_same(interop.load_torch(shapes, alphabetical), expected)
  backwards = {
    collection: dict(reversed(tree.items()))
    for collection, tree in shapes.items()
  }
  assert_same(interop.load_torch(backwards, state), expected)


@pytest.mark.parametrize(
  "name",
  quick.only(
    ("resnet32", "wide_resnet20_8", "densenet40_12"),
    sorted(fingerprints.NETWORKS),
  ),
)
def test_alphabetical_state_dicts_of_all_networks(name):
  shapes, state = case(name)
  alphabetical = {name: state[name] for name in sorted(without_counters(state))}
  assert_same(
    interop.load_torch(shapes, alphabetical), interop.load_torch(shapes, state)
  )


def test_sorted_names_without_numbers_are_told():
  shapes, state = case("resnet32")
  named = {name.replace("stem", "begin"): state[name] for name in state}
  assert named.keys() != state.keys()
  assert_same(
    interop.load_torch(shapes, named), interop.load_torch(shapes, state)
  )
  alphabetical = {name: named[name] for name in sorted(named)}
  with pytest.raises(WeightsError, match=r"number of classes\. .* as \.pth"):
    interop.load_torch(shapes, alphabetical)


@pytest.mark.parametrize(
  "name", quick.only(["resnet32"], ["resnet32", "vgg16", "densenet40_12"])
)
def test_round_trip(name):
  shapes, state = case(name)
  with jax.enable_x64(True):
    variables = interop.load_torch(shapes, state)
  written = interop.to_torch(variables, like=state)
  assert list(written) == list(state)
  for entry, value in written.items():
    np.testing.assert_array_equal(value, state[entry])
  ours = interop.to_torch(variables)
  assert all("/" not in entry for entry in ours)
  assert [v.shape for v in ours.values()] == [
    v.shape for v in without_counters(state).values()
  ]
  with jax.enable_x64(True):
    assert_same(interop.load_torch(shapes, ours), variables)


class TheirNet:
  """What the page on networks uses of a PyTorch module."""

  def __init__(self, state):
    self.state = state

  def state_dict(self):
    return {
      name: types.SimpleNamespace(numpy=np.zeros_like(value).view)
      for name, value in self.state.items()
    }

  def load_state_dict(self, state):
    self.state = state


def test_the_page_on_networks_writes_a_state_dict(
  trained, tmp_path, monkeypatch
):
  text = (ROOT / "docs" / "networks.md").read_text()
  (code,) = re.findall(r"```python\n(import torch\n.*?)```", text, re.DOTALL)
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "digits").symlink_to(trained)
  monkeypatch.chdir(tmp_path)
  fake = types.SimpleNamespace(tensor=np.array)
  monkeypatch.setitem(sys.modules, "torch", fake)
  _, variables = exported.load_leader(trained / "leader")
  written = interop.to_torch(variables)
  theirs = {f"net.{name}": value for name, value in written.items()}
  net = TheirNet(theirs)
  exec(code, {"net": net})
  assert list(net.state) == list(theirs)
  for name, value in theirs.items():
    np.testing.assert_array_equal(net.state[name], value)


def test_layouts_and_statistics():
  shapes, state = case("resnet32")
  variables = interop.load_torch(shapes, state)
  kernel = variables["params"]["stage2_block0"]["conv1"]["kernel"]
  weight = state["stage2/block0/conv1.weight"]
  np.testing.assert_allclose(kernel[2, 1, 5, 7], weight[7, 5, 2, 1], rtol=1e-6)
  linear = variables["params"]["head_linear"]["kernel"]
  np.testing.assert_allclose(linear, state["head/fc.weight"].T, rtol=1e-6)
  changed = {**state, "stem/bn.running_var": np.arange(16.0)}
  stats = interop.load_torch(shapes, changed)["batch_stats"]
  np.testing.assert_array_equal(stats["stem_bn"]["var"], np.arange(16))


def test_leaves_take_the_wider_dtype():
  shapes, state = case("resnet32")
  half = {k: v.astype(np.float16) for k, v in state.items()}
  loaded = interop.load_torch(shapes, half)
  assert {v.dtype for v in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
  with jax.enable_x64(True):
    loaded = interop.load_torch(shapes, state)
  assert {v.dtype for v in jax.tree.leaves(loaded)} == {np.dtype(np.float64)}


@pytest.mark.parametrize(
  ("kind", "message"),
  [("int8", "is int8, and floats.*quantised"), ("inf", "not finite.*diverged")],
)
def test_values_that_are_no_weights_are_refused(kind, message):
  shapes, state = case("resnet32")
  name = next(iter(state))
  value = np.full_like(state[name], np.inf)
  value = value if kind == "inf" else state[name].astype(kind)
  with pytest.raises(WeightsError, match=f"'{name}' of .*{message}"):
    interop.load_torch(shapes, change(state, name, value))


def change(state, name, value):
  return {k: value if k == name else v for k, v in state.items()}


def remove(state, *names):
  return {k: v for k, v in state.items() if k not in names}


BN = [
  f"stage1/block0/bn1.{entry}"
  for entry in ("weight", "bias", "running_mean", "running_var")
]


@pytest.mark.parametrize(
  ("edit", "message"),
  [
    (
      lambda s: change(s, "head/fc.weight", np.zeros((100, 64))),
      r"'params/head_linear/kernel' of shape \(64, 10\) needs \(10, 64\).*"
      r"'head/fc.weight' of the state dict is \(100, 64\)",
    ),
    (
      lambda s: change(
        s, "stage2/block0/conv1.weight", np.zeros((32, 16, 1, 1))
      ),
      r"stage2_block0/conv1/kernel.*'stage2/block0/conv1.weight'.*1, 1\)",
    ),
    (
      lambda s: remove(s, "stem/bn.running_mean"),
      "'batch_stats/stem_bn/mean'.*'stem/bn.running_mean'.*absent",
    ),
    (lambda s: remove(s, "head/fc.bias"), "head/fc.bias.* absent"),
    (
      lambda s: remove(s, "head/fc.weight", "head/fc.bias"),
      "no linear layer left for 'head_linear'",
    ),
    (lambda s: remove(s, *BN), "batch norm layer left|needs"),
    (
      lambda s: {**s, "extra.weight": np.zeros((3, 3))},
      "'extra' of the state dict, a linear layer, is left over",
    ),
    (
      lambda s: {**s, "stem/conv.bias": np.zeros(16)},
      "'stem' has no bias, but 'stem/conv'",
    ),
    (
      lambda s: {**s, "pos_embed": np.zeros((1, 4, 8))},
      "'pos_embed' of the state dict, a parameter, is left over",
    ),
    (
      lambda s: {**s, "attn.weight": np.zeros((4, 4)), "attn.in": np.zeros(3)},
      "'attn' of the state dict is no convolution.*attn.in",
    ),
  ],
)
def test_what_does_not_fit_is_refused(edit, message):
  shapes, state = case("resnet32")
  for refused in (
    lambda: interop.load_torch(shapes, edit(state)),
    lambda: interop.to_torch(interop.load_torch(shapes, state), edit(state)),
  ):
    with pytest.raises(WeightsError, match=message):
      refused()


def test_a_group_of_peers_is_refused():
  shapes, state = case("resnet32")
  stacked = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype), shapes
  )
  with pytest.raises(WeightsError, match="of a group, extract one peer first"):
    interop.load_torch(stacked, state)


def test_own_module_with_automatic_names():
  class Own(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      for width in (4, 5):
        x = nn.Conv(width, (3, 3), use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
      return nn.Dense(2)(x.mean((1, 2)))

  shapes = shapes_of(Own(), (8, 8, 3))
  state = interop.to_torch(
    jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), shapes)
  )
  loaded = interop.load_torch(shapes, state)
  assert jax.tree.structure(loaded) == jax.tree.structure(shapes)
  assert_same(
    loaded, jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5), shapes)
  )


def test_reads_safetensors(tmp_path):
  shapes, state = case("resnet110")
  state = {k: np.asarray(v, np.float32) for k, v in state.items()}
  path = tmp_path / "net.safetensors"
  safetensors.save_file(
    {k: np.ascontiguousarray(v) for k, v in state.items()}, path
  )
  read = torch_archive.read_state_dict(path)
  assert read.keys() == state.keys()
  assert_same(
    interop.load_torch(shapes, read), interop.load_torch(shapes, state)
  )


@pytest.mark.parametrize("name", ["net.pth", "net.bin", "net", "0a1b2c"])
def test_safetensors_may_have_any_name(tmp_path, name):
  state = {"w": np.arange(3, dtype=np.float32)}
  safetensors.save_file(state, tmp_path / name)
  assert_same(torch_archive.read_state_dict(tmp_path / name), state)


def test_weights_averaged_by_pytorch_are_read():
  shapes, state = case("resnet110")
  averaged = {"n_averaged": np.int64(3)}
  averaged |= {f"module.{entry}": value for entry, value in state.items()}
  assert_same(
    interop.load_torch(shapes, averaged), interop.load_torch(shapes, state)
  )


@pytest.fixture
def save(monkeypatch, tmp_path):
  """Writes a file in the format of `torch.save`."""
  return torch_files.saver(monkeypatch, tmp_path)


def test_reads_pytorch_files(save):
  arrays = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.arange(2.0),
    "b.num_batches_tracked": np.array(7, np.int64),
    "c.weight": np.array([1.5, -2.0], jnp.bfloat16),
  }
  state = collections.OrderedDict((k, Tensor(v)) for k, v in arrays.items())
  state._metadata = collections.OrderedDict(version=1)
  for value in (state, {"epoch": 3, "state_dict": state}):
    read = torch_archive.read_state_dict(save(value))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
      assert read[name].dtype == array.dtype
      np.testing.assert_array_equal(read[name], array)


def test_reads_views_of_a_storage(save):
  values = np.arange(12, dtype=np.float32)
  view = Tensor(values, offset=1, stride=(1, 4), size=(3, 2))
  read = torch_archive.read_state_dict(save({"w": view}))
  np.testing.assert_array_equal(read["w"], [[1, 5], [2, 6], [3, 7]])


@pytest.mark.parametrize(
  "field",
  [
    {"offset": 10},
    {"stride": (100, 1), "size": (2, 2)},
    {"offset": -1},
    {"stride": (-1,), "size": (3,)},
  ],
)
def test_tensors_beyond_their_storage_are_refused(save, field):
  tensor = Tensor(np.zeros(4, np.float32), **field)
  with pytest.raises(WeightsError, match="beyond its storage"):
    torch_archive.read_state_dict(save({"w": tensor}))


class Malicious:
  ran = False

  def __reduce__(self):
    return setattr, (Malicious, "ran", True)


@pytest.mark.checklist("security")
def test_code_in_a_file_is_refused_and_not_run(save):
  path = save({"w": Malicious()})
  with pytest.raises(WeightsError, match="builtin.*setattr.*was run"):
    torch_archive.read_state_dict(path)
  # Beside weights it is skipped, and not run either.
  weights = {"w": Tensor(np.ones(2, np.float32))}
  path = save({"state_dict": weights, "more": [Malicious()]})
  assert list(torch_archive.read_state_dict(path)) == ["w"]
  assert not Malicious.ran


@pytest.mark.parametrize(
  "name",
  ["a.pth.tar", "a.bin", "a.CKPT", "a.PTH", "a.pt", "a", "a.safetensors"],
)
@pytest.mark.parametrize(
  "place",
  ["", "state_dict", "model", "net", "model_state_dict", "student", "ema"]
  + ["model/state_dict", "network/module"],
)
def test_files_as_people_save_them(save, name, place):
  weights = collections.OrderedDict(
    (key, Tensor(np.full(3, i, np.float32))) for i, key in enumerate("ba")
  )
  content = weights
  for part in reversed(list(filter(None, place.split("/")))):
    content = {"epoch": 3, part: content, "best": 0.5}
  read = torch_archive.read_state_dict(save(content, name))
  assert list(read) == ["b", "a"]
  np.testing.assert_array_equal(read["a"], np.ones(3))


class Odd:
  """An object of a class that only the file's author has."""

  def __init__(self):
    self.rate = 3


@pytest.mark.checklist("security")
def test_what_lies_beside_weights_is_skipped(save):
  weights = {"w": Tensor(np.ones(2, np.float32))}
  device = type("device", (), {"__module__": "torch"})
  device.__reduce__ = lambda self: (device, ("cuda", 0))
  sys.modules["torch"].device = device  # of the fixture
  beside = {
    "device": device(),
    "optimizer": {
      "state": collections.defaultdict(
        dict,
        {0: {"momentum_buffer": Tensor(np.zeros(2, np.float32))}},
      ),
      "param_groups": [{"lr": np.float64(0.1), "params": {0, 1}}],
    },
    "args": argparse.Namespace(lr=0.1, out=pathlib.Path("x"), mode=np.int64(3)),
    "scheduler": Odd(),
    "when": datetime.datetime(2020, 1, 1),
    "dtype": np.dtype("float32"),
    "history": np.arange(3),
    "function": os.path.join,
    "part": functools.partial(max, 3),
    "list": collections.deque([1, Odd()]),
    "text": "x",
  }
  read = torch_archive.read_state_dict(save(beside | {"net": weights}))
  np.testing.assert_array_equal(read["w"], [1, 1])
  # So is the name of the network, and the network itself.
  for other in ("resnet20", Odd()):
    read = torch_archive.read_state_dict(save({"model": other, "net": weights}))
    np.testing.assert_array_equal(read["w"], [1, 1])
  # A whole network was saved, by its class.
  with pytest.raises(
    WeightsError, match="holds a .*test_torch.Odd, not a dict"
  ):
    torch_archive.read_state_dict(save(Odd()))
  with pytest.raises(WeightsError, match="'net' .* is a .*Odd, not a tensor"):
    torch_archive.read_state_dict(save({"net": Odd()}))


class Block(nn.Module):
  """A residual block and a classifier, named as they run."""

  @nn.compact
  def __call__(self, x, *, train):
    def norm(name):
      return nn.BatchNorm(use_running_average=not train, name=name)

    def conv(name, size):
      return nn.Conv(4, (size, size), use_bias=False, name=name)

    y = nn.relu(norm("bn1")(conv("conv1", 3)(x)))
    y = norm("bn2")(conv("conv2", 3)(y))
    y = nn.relu(y + norm("shortcut_bn")(conv("shortcut_conv", 1)(x)))
    return nn.Dense(2, name="head")(y.mean((1, 2)))


# As PyTorch's layers are called, in the order in which they run.
RUN = ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1", "fc")


def block(declared):
  """The block, its variables, and its state dict in an order of layers."""
  variables = Block().init(
    jax.random.key(0), jnp.zeros((1, 6, 6, 4)), train=False
  )
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables
  )
  ours = (
    "conv1",
    "bn1",
    "conv2",
    "bn2",
    "shortcut_conv",
    "shortcut_bn",
    "head",
  )
  names = dict(zip(RUN, ours, strict=True))
  written = interop.to_torch(variables)
  state = {}
  for layer in declared:
    for key, value in written.items():
      if key.rpartition(".")[0] == names[layer]:
        state[f"layer1.0.{layer}.{key.rpartition('.')[2]}"] = value
  assert len(state) == len(written)
  return variables, state


@pytest.mark.parametrize("moved", [5, 4])
def test_layers_declared_in_another_order_are_found_by_name(moved, caplog):
  # The shortcut's layers stand before bn2, as some authors write it.
  declared = [*RUN[:3], *RUN[4:6], RUN[3], RUN[6]]
  variables, state = block(declared if moved == 5 else RUN)
  shapes = shapes_of(Block(), (6, 6, 4))
  loaded = interop.load_torch(shapes, state)
  assert_same(loaded, variables)
  said = "downsample.1' stands where 'layer1.0.bn2'" in caplog.text
  assert said == (moved == 5)


def test_an_order_that_names_do_not_tell_is_said(caplog):
  variables, state = block(RUN)
  names = ["a", "z", "b", "y", "d", "c", "fc"]
  renamed = {}
  for key, value in state.items():
    layer, _, entry = key.removeprefix("layer1.0.").rpartition(".")
    renamed[f"{names[RUN.index(layer)]}.{entry}"] = value
  loaded = interop.load_torch(shapes_of(Block(), (6, 6, 4)), renamed)
  assert_same(loaded, variables)  # as declared
  assert "They are taken as declared" in caplog.text


def test_logits_of_pytorch_can_be_compared():
  variables, _ = block(RUN)
  images = np.random.default_rng(1).normal(size=(2, 6, 6, 4)).astype(np.float32)
  logits = np.asarray(Block().apply(variables, images, train=False))
  interop.check_logits(Block(), variables, images, logits)
  params = dict(variables["params"])
  params["bn2"], params["shortcut_bn"] = params["shortcut_bn"], params["bn2"]
  with pytest.raises(WeightsError, match="logits differ.*another order"):
    interop.check_logits(
      Block(), variables | {"params": params}, images, logits
    )
  with pytest.raises(WeightsError, match=r"shape \(2, 2\).*\(1, 2\)"):
    interop.check_logits(Block(), variables, images, logits[:1])


def test_other_files_are_refused(save, tmp_path):
  legacy = tmp_path / "old.pth"
  legacy.write_bytes(pickle.dumps({"w": 1}))
  with pytest.raises(WeightsError, match="neither .safetensors nor"):
    torch_archive.read_state_dict(legacy)
  with pytest.raises(WeightsError, match="'epoch'.* is a int, not a tensor"):
    torch_archive.read_state_dict(save({"epoch": 3}))
  itself = {}
  itself["model"] = itself
  with pytest.raises(WeightsError, match="'model'.* is a dict, not a tensor"):
    torch_archive.read_state_dict(save(itself))
  with pytest.raises(WeightsError, match="holds a list"):
    torch_archive.read_state_dict(save([1, 2]))
  for place in (tmp_path / "nothing.pth", tmp_path):
    with pytest.raises(WeightsError, match=f"{place} cannot be read: "):
      torch_archive.read_state_dict(place)
  damaged = tmp_path / "damaged.safetensors"
  damaged.write_bytes(b"not a header at all")
  with pytest.raises(WeightsError, match="damaged.safetensors cannot be read"):
    torch_archive.read_state_dict(damaged)
  plain = tmp_path / "plain.pt"
  with zipfile.ZipFile(plain, "w") as archive:
    archive.writestr("readme.txt", "nothing")
  with pytest.raises(WeightsError, match="torch.save has not written it"):
    torch_archive.read_state_dict(plain)
  cut = save({"w": Tensor(np.zeros(4, np.float32))})
  data = bytearray(cut.read_bytes())
  start = data.index(b"\x80\x02")
  data[start + 10 : start + 14] = b"\xff\xff\xff\xff"
  cut.write_bytes(bytes(data))
  with pytest.raises(WeightsError, match="cannot be read"):
    torch_archive.read_state_dict(cut)


def test_a_flipped_bit_ends_in_a_message_at_most(save):
  path = save({"w": Tensor(np.zeros(4, np.float32))})
  whole, refused = path.read_bytes(), 0
  rng = random.Random(0)
  for _ in range(400):
    data = bytearray(whole)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    try:
      torch_archive.read_state_dict(path)
    except WeightsError:
      refused += 1
  assert refused > 100


def test_a_bias_outside_layers_is_a_parameter():
  made = {
    "params": {
      "dense": {"kernel": np.ones((2, 3), np.float32)},
      "bias": np.arange(3, dtype=np.float32),
      "part": {"bias": np.full(4, 7, np.float32)},
    }
  }
  written = interop.to_torch(made)
  assert {*written} == {"dense.weight", "bias", "part.bias"}
  blank = jax.tree.map(np.zeros_like, made)
  jax.tree.map(
    np.testing.assert_array_equal, interop.load_torch(blank, written), made
  )


def test_statistics_that_a_network_has_no_place_for_are_refused():
  ours = {"params": {"norm": {"scale": np.ones(3), "bias": np.ones(3)}}}
  theirs = {f"norm.{name}": np.ones(3) for name in ("weight", "bias")}
  interop.load_torch(ours, theirs)
  theirs |= {f"norm.running_{name}": np.ones(3) for name in ("mean", "var")}
  with pytest.raises(WeightsError, match="'norm' has no running_mean, but"):
    interop.load_torch(ours, theirs)
