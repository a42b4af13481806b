"""CTKD: terms of the vectors, its presets, and experts that do not fit."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import layouts
import numpy as np
import pytest

from configs import ctkd_digits
from okd_jax import backbones, core, groups, methods
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.runs import run as run_lib
from okd_jax.settings import config as config_lib
from okd_jax.settings.freeze import freeze
from okd_jax.weights import teacher
import runs
import toys

NETS = ("student", "scratch")


def given(case):
  inputs = case["inputs"]
  batch = core.Batch(
    image=jnp.zeros((4, 2, 2, 1)),
    target=jnp.asarray(inputs["labels"]),
    index=jnp.arange(4),
    mask=jnp.ones(4, bool),
  )
  ctx = toys.recipe("independent").context(
    jnp.int32(0), jax.random.key(0), train=True
  )
  live = {
    name: np.asarray(inputs[name])
    for net in NETS
    for name in (f"{net}_logits", *(f"{net}_group{g}" for g in range(3)))
  }
  expert = core.Outputs(
    jnp.full((1, 4, 5), jnp.nan),
    jnp.full((1, 4, 5), jnp.nan),
    tuple(np.asarray(inputs[f"expert_group{g}"])[None] for g in range(3)),
  )
  return live, expert, batch, ctx


def outputs_of(live, expert):
  logits = jnp.stack([live[f"{net}_logits"] for net in NETS])
  maps = tuple(tuple(live[f"{net}_group{g}"] for net in NETS) for g in range(3))
  return core.Outputs(logits, logits, maps, teacher=expert)


@pytest.mark.parametrize("attention_on", ["student", "scratch"])
def test_the_loss_is_that_of_the_vectors(attention_on):
  case = golden.case("ctkd", "ctkd_total")
  method = methods.make("ctkd", attention_on=attention_on)
  with jax.enable_x64(True):
    live, expert, batch, ctx = given(case)

    def loss(live):
      result = method.apply({}, outputs_of(live, expert), batch, ctx)
      return core.objective(result.terms)

    value, gradient = golden.jit_once(jax.value_and_grad(loss))(live)
  total = f"total_attention_on_{attention_on}"
  np.testing.assert_allclose(value, case["expected"][total], rtol=1e-9)
  for name, want in case[f"grads_{total}"].items():
    np.testing.assert_allclose(gradient[name], want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("attention_on", ["student", "scratch"])
def test_the_teacher_from_scratch_is_guided_once_for_all_students(attention_on):
  live, expert, batch, ctx = given(golden.case("ctkd", "ctkd_total"))
  method = methods.make("ctkd", attention_on=attention_on)

  def terms_of(students):
    peers = [*["student"] * students, "scratch"]
    logits = jnp.stack([live[f"{net}_logits"] for net in peers])
    maps = tuple(
      tuple(live[f"{net}_group{g}"] for net in peers) for g in range(3)
    )
    outputs = core.Outputs(logits, logits, maps, teacher=expert)
    return method.apply({}, outputs, batch, ctx).terms

  sums = [
    {name: np.sum(term) for name, term in terms_of(students).items()}
    for students in (1, 2)
  ]
  for name, value in sums[0].items():
    once = name == "scratch_ce" or (
      name == "attention" and attention_on == "scratch"
    )
    np.testing.assert_allclose(
      sums[1][name], value if once else 2 * value, rtol=1e-5, err_msg=name
    )


@pytest.mark.parametrize(
  ("words", "weights"),
  [
    ("ce", (0, 0)),
    ("hint", (0.03, 0)),
    ("attention", (0, 62.5)),
    ("", (0.03, 62.5)),
  ],
)
def test_four_presets(words, weights, tmp_path):
  config = ctkd_digits.get_config(words)
  method = config.method
  assert (method.hint_weight, method.attention_weight) == weights
  config.teacher = str(tmp_path) if weights[1] else ""
  config_lib.check(freeze(config))
  config.teacher = "" if weights[1] else str(tmp_path)
  with pytest.raises(ConfigError, match=r"config\.teacher"):
    config_lib.check(freeze(config))


def test_stages_are_counted_from_the_deepest():
  live, expert, batch, ctx = given(golden.case("ctkd", "ctkd_total"))
  seen = outputs_of(live, expert)
  fewer = dataclasses.replace(expert, maps=expert.maps[1:])
  all_three, of_peers, of_expert, of_both = (
    methods.make("ctkd").apply({}, outputs, batch, ctx).terms["attention"]
    for outputs in (
      seen,
      dataclasses.replace(seen, maps=seen.maps[1:]),
      dataclasses.replace(seen, teacher=fewer),
      dataclasses.replace(seen, maps=seen.maps[1:], teacher=fewer),
    )
  )
  np.testing.assert_array_equal(of_peers, of_both)
  np.testing.assert_array_equal(of_expert, of_both)
  assert np.all(of_both < all_three)


def test_an_expert_of_other_sizes_is_refused():
  case = golden.case("ctkd", "ctkd_total")
  live, expert, batch, ctx = given(case)
  maps = (*expert.maps[:2], jnp.zeros((1, 4, 3, 3, 5)))
  seen = outputs_of(live, expert.replace(maps=maps))
  with pytest.raises(ConfigError, match=r"\(3, 3\).*\(2, 2\).*name an expert"):
    methods.make("ctkd").apply({}, seen, batch, ctx)


def test_student_and_teacher_share_the_first_convolution():
  nets = [backbones.make(n, 10, split=0) for n in ("wrn16_1", "wrn40_1")]
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  group = groups.different_branches(nets, make_mesh(1), example=images)
  shapes = jax.eval_shape(group.init, jax.random.key(0), images)
  assert backbones.count_parameters(shapes["params"]) == 738_564
  counts = [layouts.count(net, (32, 32, 3)) for net in nets]
  assert counts == [175_066, 563_930]


def test_a_run_teaches_with_its_maps_as_they_are(trained):
  config = ctkd_digits.get_config("smoke")
  config.teacher = str(trained)
  config.mesh.data = 1
  info = run_lib.run(trained).info
  group, _ = teacher.load(freeze(config), info, make_mesh(1))
  assert group.stacks[0].net.raw_maps


@pytest.mark.long
def test_different_networks_end_alike_on_every_mesh():
  setups = {
    data: toys.recipe(
      "ctkd",
      peers=groups.mixed((toys.Toy(5), toys.Toy(5, width=12)), make_mesh(data)),
      data=data,
      dtype=jnp.float64,
    )
    for data in (1, 2)
  }
  with jax.enable_x64(True):
    start = jax.device_get(runs.start(setups[1]))
    one, two = (runs.train_from(s, start, 3) for s in setups.values())
  runs.assert_close(two, one, 1e-9)
