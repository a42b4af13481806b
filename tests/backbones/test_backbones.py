"""Networks against the published definitions (spec vectors and counts)."""

import fingerprints
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from okd_jax import backbones
from okd_jax.backbones import densenet, imagenet_resnet, resnet, vgg
from okd_jax.weights import torch as interop

# Table of counts: parameters with 10 and 100 classes, millions of
# multiply-adds with 100 classes.
COUNTS = {
  "resnet32": {
    "single": (466_906, 472_756, 69.130),
    "okddip branch": (1_530_872, 1_554_272, 136.786),
    "okddip network": (1_868_648, 1_892_048, 276.525),
    "ind branch": (1_529_988, 1_553_388, 136.783),
  },
  "resnet110": {
    "single": (1_147_738, 1_170_868, 167.454),
    "okddip branch": (3_781_496, 3_874_016, 337.449),
    "okddip network": (4_607_336, 4_699_856, 669.864),
    "ind branch": (3_765_636, 3_858_156, 337.400),
  },
  "wrn20_8": {
    "single": (6_848_090, 6_871_220, 1022.830),
    "okddip branch": (22_519_416, 22_611_936, 2061.046),
    "okddip network": (27_408_744, 27_501_264, 4091.367),
    "ind branch": (22_503_556, 22_596_076, 2060.997),
  },
  "vgg16": {
    "single": (15_253_578, 15_299_748, 313.772),
    "okddip branch": (38_157_928, 38_342_608, 400.630),
    "okddip network": (61_079_848, 61_264_528, 1255.285),
    "ind branch": (38_094_452, 38_279_132, 400.433),
  },
  "densenet40_12": {
    "single": (176_122, 188_092, 72.377),
    # Parameters of separate last blocks; the published code shares one.
    "okddip branch": (361_168, 409_048, 87.045),
    "okddip network": (708_712, 756_592, 289.522),
  },
}
FEATURES = {
  "resnet32": 64,
  "resnet110": 256,
  "wrn20_8": 256,
  "vgg16": 512,
  "densenet40_12": 132,
  "resnet34": 512,
}
CIFAR = (32, 32, 3)
IMAGENET = (224, 224, 3)
# One small network of each family, with an image it accepts.
FAMILIES = {
  "resnet8": (8, 8, 1),
  "wrn20_8": (8, 8, 3),
  "resnet18": (32, 32, 3),
  "vgg16": (32, 32, 3),
  "densenet40_12": (8, 8, 1),
}
# The same code with fewer, narrower layers, for tests that run it.
SMALL = {
  "resnet8": (backbones.make("resnet8", 5), (8, 8, 1)),
  "bottleneck": (
    resnet.ResNet(
      5, blocks=(1, 1, 1), widths=(8, 8, 16), inner_widths=(4, 4, 8)
    ),
    (8, 8, 3),
  ),
  "imagenet_resnet": (
    imagenet_resnet.ImageNetResNet(
      5, blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16), inner_widths=None
    ),
    (32, 32, 3),
  ),
  "vgg": (
    vgg.VGG(5, widths=((4,), (4,), (8,), (8,), (8,)), hidden=(8, 8)),
    (32, 32, 3),
  ),
  "densenet": (densenet.DenseNet(5, blocks=(1, 2, 1), growth=4), (8, 8, 1)),
}
SPLITS = [
  (name, split)
  for name in FAMILIES
  # VGG has no stem.
  for split in range(name == "vgg16", backbones.make(name, 5).num_stages + 1)
]


def shapes_of(net, image):
  x = jax.ShapeDtypeStruct((2, *image), jnp.float32)
  return jax.eval_shape(
    lambda x: net.init(jax.random.key(0), x, train=False), x
  )


def outputs_of(net, image):
  x = jax.ShapeDtypeStruct((2, *image), jnp.float32)
  return jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False)[0], x
  )


def random_variables(net, image, seed=0):
  """Variables without compiling `init`."""
  rng = np.random.default_rng(seed)
  shapes = shapes_of(net, image)

  def draw(leaf):
    fan_in = max(np.prod(leaf.shape[:-1]), 1)
    return jnp.asarray(
      rng.normal(size=leaf.shape) / np.sqrt(fan_in), leaf.dtype
    )

  params = jax.tree.map(draw, shapes["params"])
  stats = jax.tree.map(
    lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes["batch_stats"]
  )
  return {"params": params, "batch_stats": stats}


def leaf_shapes(tree):
  return {
    jax.tree_util.keystr(path): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def filled(net, layers, image):
  return interop.load_torch(
    shapes_of(net, image), fingerprints.state_dict(layers)
  )


def check_first_bn(layers, expected, variables):
  """The statistics after the pass, of the first batch norm in layer order."""
  state = interop.to_torch(variables, fingerprints.state_dict(layers))
  for entry in ("running_mean", "running_var"):
    np.testing.assert_allclose(
      state[f"{expected['name']}.{entry}"],
      expected[entry],
      rtol=1e-7,
      atol=1e-12,
    )


@pytest.mark.parametrize(
  "name",
  quick.only(
    ["resnet32/single"],
    [n for n in fingerprints.CASES if n.endswith("/single")],
  ),
)
def test_fingerprint(name):
  case = fingerprints.CASES[name]
  net = backbones.make(fingerprints.NETWORKS[name.split("/")[0]], 10)
  with jax.enable_x64(True):
    x = fingerprints.images(case["batch"], case["size"])
    variables = filled(net, case["layers"], x.shape[1:])
    assert backbones.count_parameters(variables["params"]) == case["params"]
    # Operation by operation: compiling the whole network takes far longer.
    outputs, stats = net.apply(
      variables, x, train=True, mutable=["batch_stats"]
    )
  expected = case["expected"]
  np.testing.assert_allclose(outputs.features, expected["features"], rtol=1e-7)
  np.testing.assert_allclose(outputs.logits, expected["logits"], rtol=1e-7)
  check_first_bn(
    case["layers"], expected["first_bn_after"], {**variables, **stats}
  )


@pytest.mark.parametrize(
  "name", quick.only(["resnet32"], ["resnet32", "vgg16"])
)
def test_branch_fingerprint(name):
  case = fingerprints.CASES[f"{name}/okddip_branch_m4"]
  expected = case["expected"]
  layers = {"trunk": [], "attn": []} | {f"branch{i}": [] for i in range(4)}
  for layer in case["layers"]:
    owner = layer[1].split("/")[0]
    layers[owner if owner in layers else "trunk"].append(layer)
  trunk = backbones.make(name, 10, part="trunk")
  tail = backbones.make(name, 10, part="tail")
  with jax.enable_x64(True):
    x = fingerprints.images(case["batch"], case["size"])
    variables = filled(trunk, layers["trunk"], x.shape[1:])
    hidden, stats = trunk.apply(
      variables, x, train=True, mutable=["batch_stats"]
    )
    branches = [
      tail.apply(
        filled(tail, layers[f"branch{i}"], hidden.shape[1:]),
        hidden,
        train=True,
        mutable=["batch_stats"],
      )[0]
      for i in range(4)
    ]
  check_first_bn(
    layers["trunk"], expected["first_bn_after"], {**variables, **stats}
  )
  attention = fingerprints.state_dict(layers["attn"])
  logits = np.stack([branch.logits for branch in branches[:3]], axis=1)
  features = np.stack([branch.features for branch in branches[:3]], axis=1)
  queries = features @ attention["attn/L.weight"].T
  keys = features @ attention["attn/E.weight"].T
  energy = np.einsum("bie,bje->bij", queries, keys)
  weights = np.exp(energy - energy.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  np.testing.assert_allclose(logits, expected["logits_aux"], rtol=1e-7)
  np.testing.assert_allclose(
    weights @ logits, expected["target_logits"], rtol=1e-7
  )
  np.testing.assert_allclose(
    branches[3].logits, expected["logits_leader"], rtol=1e-7
  )


def sizes(name, classes):
  """Parameters and multiply-adds of whole, trunk and tail."""
  whole, trunk, tail = (
    backbones.make(name, classes, part=part)
    for part in ("whole", "trunk", "tail")
  )
  hidden = outputs_of(trunk, CIFAR).shape[1:]
  return [
    (
      backbones.count_parameters(shapes_of(net, shape)["params"]),
      backbones.count_multiply_adds(net, shape),
    )
    for net, shape in ((whole, CIFAR), (trunk, CIFAR), (tail, hidden))
  ] + [hidden[-1]]


@pytest.mark.parametrize(
  "name", quick.only(("resnet32", "wrn20_8", "vgg16"), sorted(COUNTS))
)
def test_counts_of_published_table(name):
  width = FEATURES[name]
  attention = 2 * width * (width // 8)
  for column, classes in enumerate((10, 100)):
    whole, trunk, tail, trunk_width = sizes(name, classes)
    branches = [a + 4 * b for a, b in zip(trunk, tail, strict=True)]
    gate = 4 * trunk_width + 4 + 2 * 4
    params = {
      "single": whole[0],
      "okddip branch": branches[0] + attention,
      "okddip network": 4 * whole[0] + attention,
      "ind branch": branches[0] + gate,
    }
    # Each of the three auxiliary peers passes both projections.
    adds = {
      "single": whole[1],
      "okddip branch": branches[1] + 3 * attention,
      "okddip network": 4 * whole[1] + 3 * attention,
      "ind branch": branches[1],
    }
    if name == "densenet40_12":
      # The published graph passes one auxiliary branch more than it has.
      adds["okddip branch"] += tail[1] + attention
    for row, published in COUNTS[name].items():
      assert params[row] == published[column], (row, classes)
      if classes == 100:
        assert round(adds[row] / 1e6, 3) == published[2], row


@pytest.mark.parametrize(
  ("name", "params", "adds"),
  [("resnet18", 11_689_512, 1814.073), ("resnet34", 21_797_672, 3663.761)],
)
def test_counts_of_imagenet_table(name, params, adds):
  net = backbones.make(name, 1000)
  shapes = shapes_of(net, IMAGENET)
  assert backbones.count_parameters(shapes["params"]) == params
  counted = backbones.count_multiply_adds(net, IMAGENET)
  assert round(counted / 1e6, 3) == adds
  tail = backbones.make(name, 1000, part="tail")
  # Split after stage 3: the tail takes 256 channels at 14x14.
  assert shapes_of(tail, (14, 14, 256))["params"].keys() == {
    "stage4_block0",
    "stage4_block1",
    *(["stage4_block2"] if name == "resnet34" else []),
    "head_linear",
  }


def test_densenet_with_shared_last_block_has_published_counts():
  for classes, published in ((10, 180_904), (100, 228_784)):
    trunk, tail = (
      backbones.make("densenet40_12", classes, split=3, part=part)
      for part in ("trunk", "tail")
    )
    shared = shapes_of(trunk, CIFAR)["params"]
    own = shapes_of(tail, (8, 8, 132))["params"]
    assert own.keys() == {"head_bn", "head_linear"}
    total = backbones.count_parameters(shared)
    assert total + 4 * backbones.count_parameters(own) == published


def test_basic_resnet110_has_published_count():
  net = backbones.make("resnet110_basic", 10)
  count = backbones.count_parameters(shapes_of(net, CIFAR)["params"])
  assert round(count / 1e6, 3) == 1.731


def test_counts_own_modules():
  class Own(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      x = nn.relu(nn.Conv(8, (3, 3), feature_group_count=2)(x))
      x = nn.Conv(6, (1, 1), strides=2)(x)
      repeat = nn.scan(
        lambda module, carry, _: (nn.Dense(6, name="d")(carry), None),
        variable_broadcast="params",
        split_rngs={"params": False},
        length=3,
      )
      x, _ = repeat(self, x.reshape(x.shape[0], -1, 6), None)
      return jnp.einsum("bid,bjd->bij", x, x)

  # 6x6 positions of 8 channels from 9 * 4 / 2 inputs; 9 positions after.
  expected = 36 * 8 * 18 + 9 * 6 * 8 + 3 * 9 * 36 + 9 * 9 * 6
  assert backbones.count_multiply_adds(Own(), (6, 6, 4)) == expected


def test_a_gradient_through_a_stride_costs_what_the_layer_does():
  # Of every image of 8x8x3, 4x4x5 outputs of 3x3x3 products.
  layer = nn.Conv(5, (3, 3), strides=2, padding=1, use_bias=False)
  x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
  gradient = jax.grad(
    lambda x: jnp.sum(layer.apply({"params": {"kernel": kernel}}, x))
  )
  counted = backbones.multiply_adds_of(jax.make_jaxpr(gradient)(x))
  assert counted == 2 * 2 * 4 * 4 * 5 * 27


@pytest.mark.parametrize("name", quick.only(("resnet8", "vgg"), sorted(SMALL)))
def test_parts_make_the_whole(name):
  whole, image = SMALL[name]
  variables = random_variables(whole, image)
  x = np.random.default_rng(1).normal(size=(2, *image)).astype(np.float32)

  def run(net, x):
    return net.apply(variables, x, train=True, mutable=["batch_stats"])

  expected, expected_stats = run(whole, x)
  assert len(expected.maps) == whole.num_stages
  assert expected.trunk is None
  np.testing.assert_allclose(
    jnp.mean(expected.maps[-1], (1, 2)), expected.features, rtol=1e-6
  )
  # VGG has no stem.
  for split in range(name == "vgg", whole.num_stages + 1):
    hidden, trunk_stats = run(whole.clone(split=split, part="trunk"), x)
    outputs, tail_stats = run(whole.clone(split=split, part="tail"), hidden)
    np.testing.assert_array_equal(outputs.logits, expected.logits)
    np.testing.assert_array_equal(outputs.features, expected.features)
    # A tail without a stage still returns the map that it pools.
    kept = max(whole.num_stages - split, 1)
    assert len(outputs.maps) == kept
    for ours, theirs in zip(outputs.maps, expected.maps[-kept:], strict=True):
      np.testing.assert_array_equal(ours, theirs)
    # Each part returns all statistics it was given, its own updated.
    for owner in expected_stats["batch_stats"]:
      tail_owns = owner in shapes_of(
        whole.clone(split=split, part="tail"), hidden.shape[1:]
      ).get("batch_stats", {})
      updated = (tail_stats if tail_owns else trunk_stats)["batch_stats"][owner]
      jax.tree.map(
        np.testing.assert_array_equal,
        updated,
        expected_stats["batch_stats"][owner],
      )


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_variables_of_the_whole_are_the_union_of_its_parts(name, split):
  whole, trunk, tail = (
    backbones.make(name, 5, split=split, part=part)
    for part in ("whole", "trunk", "tail")
  )
  image = FAMILIES[name]
  hidden = outputs_of(trunk, image)
  parts = [shapes_of(trunk, image), shapes_of(tail, hidden.shape[1:])]
  expected = shapes_of(whole, image)
  for collection in expected:
    one, other = (part.get(collection, {}) for part in parts)
    assert not one.keys() & other.keys()
    assert leaf_shapes({**one, **other}) == leaf_shapes(expected[collection])


@pytest.mark.parametrize("image", [(28, 28, 1), (8, 8, 1), (33, 47, 3)])
@pytest.mark.parametrize("name", ["resnet8", "resnet20", "densenet40_12"])
def test_any_size_and_channels(name, image):
  outputs = outputs_of(backbones.make(name, 7), image)
  assert outputs.logits.shape == (2, 7)


@pytest.mark.parametrize(
  ("name", "size", "stage"), [("vgg16", 28, 5), ("densenet40_12", 3, 2)]
)
def test_too_small_images_are_refused(name, size, stage):
  with pytest.raises(ValueError, match=f"too small.*after stage {stage}"):
    outputs_of(backbones.make(name, 7), (size, size, 3))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_bfloat16_leaves_state_and_logits_wide(name):
  net = backbones.make(name, 5, dtype=jnp.bfloat16)
  x = jax.ShapeDtypeStruct((2, *FAMILIES[name]), jnp.float32)
  variables = shapes_of(net, FAMILIES[name])
  outputs, stats = jax.eval_shape(
    lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]),
    variables,
    x,
  )
  assert outputs.logits.dtype == jnp.float32
  assert all(m.dtype == jnp.bfloat16 for m in outputs.maps)
  assert outputs.features.dtype == jnp.bfloat16
  leaves = jax.tree.leaves((variables, stats))
  assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def init(net, image, **kwargs):
  x = jnp.zeros((1, *image))
  # Compiled, because the forward pass is then left out.
  return jax.jit(lambda: net.init(jax.random.key(3), x, **kwargs))()["params"]


def test_init_of_resnet():
  tail = backbones.make("resnet8", 10, part="tail")
  params = init(tail, (2, 2, 32), train=False)
  kernel = params["stage3_block0"]["conv2"]["kernel"]
  np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.02)
  proj = params["stage3_block0"]["proj"]["kernel"]
  np.testing.assert_allclose(np.std(proj), np.sqrt(2 / 64), rtol=0.05)
  linear = params["head_linear"]
  bound = 1 / np.sqrt(64)
  for leaf in linear.values():
    assert 0.5 * bound < np.max(np.abs(leaf)) <= bound
  np.testing.assert_allclose(
    np.std(linear["kernel"]), bound / np.sqrt(3), rtol=0.1
  )
  for bn in ("conv1_bn", "conv2_bn", "proj_bn"):
    np.testing.assert_array_equal(params["stage3_block0"][bn]["scale"], 1)
    np.testing.assert_array_equal(params["stage3_block0"][bn]["bias"], 0)


def test_init_of_vgg():
  tail = vgg.VGG(10, widths=((64, 64),), hidden=(64, 64), split=1)
  params = init(tail, (2, 2, 64), train=False)
  kernel = params["stage1_conv1"]["kernel"]
  np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.02)
  np.testing.assert_array_equal(params["stage1_conv1"]["bias"], 0)
  for i in range(3):
    linear = params[f"head_linear{i}"]
    np.testing.assert_allclose(np.std(linear["kernel"]), 0.01, rtol=0.1)
    np.testing.assert_array_equal(linear["bias"], 0)


def test_init_of_densenet():
  layer = init(densenet.DenseLayer(12), (2, 2, 120), train=False)
  np.testing.assert_allclose(
    np.std(layer["conv1"]["kernel"]), np.sqrt(2 / 120), rtol=0.05
  )
  np.testing.assert_allclose(
    np.std(layer["conv2"]["kernel"]), np.sqrt(2 / (9 * 48)), rtol=0.05
  )
  head = backbones.make("densenet40_12", 10, split=3, part="tail")
  linear = init(head, (2, 2, 132), train=False)["head_linear"]
  np.testing.assert_array_equal(linear["bias"], 0)
  bound = 1 / np.sqrt(132)
  assert 0.95 * bound < np.max(np.abs(linear["kernel"])) <= bound


def test_vgg_dropout_acts_in_training_only():
  plain, image = SMALL["vgg"]
  net = plain.clone(dropout=0.5)
  variables = random_variables(net, image)
  x = np.random.default_rng(2).normal(size=(2, *image)).astype(np.float32)

  def run(seed):
    return net.apply(
      variables,
      x,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": jax.random.key(seed)},
    )[0]

  one, other = run(0), run(1)
  np.testing.assert_array_equal(one.features, other.features)
  assert np.max(np.abs(one.logits - other.logits)) > 1e-3
  np.testing.assert_array_equal(
    net.apply(variables, x, train=False).logits,
    plain.apply(variables, x, train=False).logits,
  )


def test_names_are_exact():
  assert backbones.names() == (
    "convnext_tiny",
    "deit_small",
    "deit_tiny",
    "densenet40_12",
    "densenetbc100_12",
    "hcgnet_a1",
    "hourglass1",
    "hourglass1_small",
    "hourglass2",
    "hourglass2_small",
    "hourglass3_small",
    "hourglass4",
    "hourglass6",
    "hourglass8",
    "mobilenet_v2_05",
    "mobilenet_v2_10",
    "mobilenet_v2_14",
    "resnet110",
    "resnet110_basic",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet8",
    "resnet8x4",
    "shufflenet_v1",
    "shufflenet_v2_05",
    "shufflenet_v2_10",
    "vgg13",
    "vgg16",
    "vgg16_linear",
    "vgg8",
    "vit_small",
    "vit_small_p16",
    "vit_tiny",
    "vit_tiny_p16",
    "wrn16_1",
    "wrn16_10",
    "wrn16_2",
    "wrn16_8",
    "wrn20_8",
    "wrn28_4",
    "wrn40_1",
    "wrn40_2",
  )


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("resnet23", {}, "'resnet23' is unknown.*Available: convnext_tiny, deit"),
    ("densnet40_12", {}, "did you mean 'densenet40_12'"),
    ("resnet32", {"splt": 3}, "no option 'splt'.*'split'.*: dtype, part, raw"),
    ("resnet32", {"dropout": 0.5}, "no option 'dropout'"),
    ("resnet32", {"blocks": (1, 1, 1)}, "no option 'blocks'"),
    ("resnet32", {"split": -1}, "split=-1.*use 0 to 3"),
    ("resnet32", {"split": 4}, "split=4.*use 0 to 3"),
    ("vgg16", {"split": 6}, "use 1 to 5"),
    ("vgg16", {"split": 0}, "use 1 to 5"),
    ("vgg16", {"dropout": 1.0}, "dropout=1.0 must be"),
    ("densenet40_12", {"split": 4}, "use 0 to 3"),
    ("resnet18", {"split": 5}, "use 0 to 4"),
    ("resnet32", {"part": "head"}, "part='head'.*'trunk'"),
  ],
)
def test_wrong_input_is_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    backbones.make(name, 10, **options)


def test_wrong_number_of_classes_is_refused():
  with pytest.raises(ValueError, match="num_classes=0"):
    backbones.make("resnet8", 0)
