"""OKDHP against the published vectors, in float64."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import losses, schedules

CASE = golden.case("okdhp", "fau_and_losses")
INPUTS = CASE["inputs"]
LIVE = ("inter", "final", "x", "W1")
AGGREGATION = ("conv_bias", "bn_scale", "bn_bias", "b1", "W2", "b2")


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def aggregate(x):
  params = golden.arrays(INPUTS, AGGREGATION) | {
    "conv_kernels": [np.array(kernel) for kernel in INPUTS["conv_kernels"]],
    "W1": x["W1"],
  }
  return losses.feature_aggregation(x["x"], x["final"], params)


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_losses_and_total(stop_gradient):
  expected = CASE["expected"]
  ramp = schedules.rampup(INPUTS["epoch"], INPUTS["rampup_length"])
  golden.assert_value(ramp, expected["ramp"])
  weight = INPUTS["kd_weight"] * ramp

  def objective(x):
    ensemble, _ = aggregate(x)
    return losses.okdhp(
      [*x["inter"], *x["final"]],
      ensemble,
      np.array(INPUTS["target"]),
      np.array(INPUTS["target_weight"]),
      ensemble_weight=INPUTS["ens_weight"],
      kd_weight=weight,
      stop_gradient=stop_gradient,
    )

  ((terms, loss, grads),) = golden.terms_and_grads(
    {"okdhp": objective}, golden.arrays(INPUTS, LIVE)
  ).values()
  golden.assert_value(loss, expected["total"])
  golden.assert_value(
    golden.sum_of_means(terms["output_mse"]), expected["hard"]
  )
  golden.assert_value(np.mean(terms["ensemble_mse"]), expected["ens"])
  golden.assert_value(
    golden.sum_of_means(terms["output_kd"]), weight * expected["soft"]
  )
  golden.assert_value(
    np.mean(terms["output_mse"][0]), expected["mse_first_output"]
  )
  golden.assert_value(
    np.mean(terms["output_kd"][0]), weight * expected["kl_first_output"]
  )
  suffix = "with" if stop_gradient else "no"
  for key, grad in CASE[f"grads_total_{suffix}_stop_gradient"].items():
    golden.assert_grad(grads[key], grad)


def test_feature_aggregation():
  ensemble, attention = aggregate(golden.arrays(INPUTS, LIVE))
  golden.assert_value(ensemble, CASE["expected"]["ensemble"])
  golden.assert_value(attention, CASE["expected"]["attention"])


def test_feature_aggregation_of_the_paper():
  """With one convolution a path and no biases, by hand."""
  rng = np.random.default_rng(0)
  x, maps = rng.normal(size=(2, 4, 4, 3)), rng.normal(size=(2, 2, 4, 4, 5))
  params = {
    # The identity, of one pixel.
    "conv_kernels": [np.eye(3)[None, None]],
    "conv_bias": np.zeros((1, 3)),
    "bn_scale": np.ones((1, 3)),
    "bn_bias": np.zeros((1, 3)),
    "point_kernels": rng.normal(size=(1, 3, 2)),
    "point_bias": rng.normal(size=(1, 2)),
    "pool_kernel": rng.normal(size=(3, 2)),
    "pool_bias": rng.normal(size=2),
    "W": rng.normal(size=(4, 10)),
    "b": rng.normal(size=10),
  }
  normal = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
  points = np.maximum(normal, 0) @ params["point_kernels"][0]
  vector = np.concatenate(
    [
      points.mean((1, 2)) + params["point_bias"][0],
      (x @ params["pool_kernel"]).mean((1, 2)) + params["pool_bias"],
    ],
    axis=-1,
  )
  logits = (vector @ params["W"] + params["b"]).reshape(2, 2, 5)
  expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  ensemble, attention = losses.feature_aggregation(
    x, maps, params, form="paper"
  )
  golden.assert_value(attention, expected)
  golden.assert_value(
    ensemble, sum(expected[:, t, None, None] * maps[t] for t in range(2))
  )


def test_weights_of_joints_are_squared_with_the_distance():
  maps, target = np.ones((1, 2, 2, 2)), np.zeros((1, 2, 2, 2))
  # Weights multiply both maps, so by hand: the mean of 9 and 0, halved.
  found = losses.heatmap_mse(maps, target, np.array([[3.0, 0.0]]))
  np.testing.assert_allclose(found, [9 / 4])


def test_joints_of_weight_zero_may_hold_anything():
  rng = np.random.default_rng(0)
  maps, target = rng.normal(size=(2, 1, 2, 2, 2))
  weight = np.array([[1.0, 0.0]])
  odd, wrong = maps.copy(), target.copy()
  odd[..., 1], wrong[..., 1] = -np.inf, np.nan
  for loss in (losses.heatmap_mse, losses.heatmap_kl):
    run = golden.jit_once(
      jax.value_and_grad(lambda m, t, f=loss: jnp.sum(f(m, t, weight)))
    )
    value, grads = run(odd, wrong)
    expected, expected_grads = run(maps, target)
    golden.assert_value(value, expected)
    golden.assert_grad(grads, expected_grads)
    assert not grads[..., 1].any() and grads[..., 0].all()


def test_divergence_of_heat_maps():
  rng = np.random.default_rng(0)
  maps, teacher = rng.normal(size=(2, 3, 4, 5, 6))
  weight = np.ones((3, 6))
  weight[1, 2] = 0

  def log_softmax(x):
    x = (weight[:, None, None] * x / 2).reshape(3, 20, 6)
    return x - np.log(np.exp(x).sum(1, keepdims=True))

  p, q = log_softmax(teacher), log_softmax(maps)
  expected = 4 * np.sum(np.exp(p) * (p - q), axis=(1, 2))
  for divide, scale in ((True, 20), (False, 1)):
    divergence = functools.partial(
      losses.heatmap_kl, divide_by_pixels=divide, temperature=2.0
    )
    golden.assert_value(
      golden.jit_once(divergence)(maps, teacher, weight), expected / scale
    )
  gradient = golden.jit_once(
    jax.grad(lambda m: jnp.sum(losses.heatmap_kl(m, teacher, weight)))
  )
  grads = gradient(maps)
  assert not grads[1, ..., 2].any()
  assert grads[1, ..., 3].all()


MAPS, WEIGHT = np.zeros((2, 4, 4, 3)), np.ones((2, 3))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"outputs": None}, "^okdhp: outputs must be a sequence; got None"),
    ({"outputs": []}, "outputs must .*at least one"),
    ({"outputs": [MAPS[:1]]}, None),
    ({"target": MAPS[..., :2]}, None),
    ({"weight": WEIGHT.T}, None),
    ({"temperature": 0.0}, "must be .*positive"),
  ],
)
def test_wrong_input_is_refused(change, message):
  arguments = {
    "outputs": [MAPS],
    "ensemble": MAPS,
    "target": MAPS,
    "weight": WEIGHT,
  }
  jax.eval_shape(lambda: losses.okdhp(**arguments))
  with pytest.raises((AssertionError, ValueError), match=message):
    losses.okdhp(**arguments | change)


@pytest.mark.parametrize("eps", [-1.0, np.nan, "1e-5"])
def test_an_eps_that_is_no_small_number_is_refused(eps):
  with pytest.raises(ValueError, match="^feature_aggregation: eps must be"):
    losses.feature_aggregation(
      *golden.arrays(INPUTS, ("x", "final")).values(), {}, eps=eps
    )


def test_unknown_form_is_refused():
  with pytest.raises(ValueError, match="form must be .*got 'sum'"):
    losses.feature_aggregation(MAPS, MAPS[None], {}, form="sum")


def params_of(form):
  """Of two branches, two convolutions, and 3 joints, as many as channels."""
  params = {
    "conv_kernels": [np.ones((1, 1, 3, 3)), np.ones((3, 3, 3, 3))],
    **dict.fromkeys(("conv_bias", "bn_scale", "bn_bias"), np.ones((2, 3))),
  }
  if form == "code":
    shapes = {"W1": (3, 5), "b1": (5,), "W2": (2, 5, 3), "b2": (2, 3)}
  else:
    shapes = {
      "point_kernels": (2, 3, 5),
      "point_bias": (2, 5),
      "pool_kernel": (3, 5),
      "pool_bias": (5,),
      "W": (15, 6),
      "b": (6,),
    }
  return params | {name: np.ones(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("form", ["code", "paper"])
def test_wrong_params_are_refused_by_name(form):
  params = params_of(form)

  def call(params):
    maps = np.stack([MAPS, MAPS])
    return jax.eval_shape(
      lambda: losses.feature_aggregation(MAPS, maps, params, form=form)
    )

  call(params)
  for name in params:
    lacking = {key: value for key, value in params.items() if key != name}
    with pytest.raises(ValueError, match=rf"^feat.*: params .*no \['{name}'\]"):
      call(lacking)
    for wrong in (None, np.ones((1, 7)), [np.ones((1, 1, 4, 3))] * 2, []):
      with pytest.raises(ValueError, match=rf"^feature_.*: params\['{name}'\]"):
        call(params | {name: wrong})
  with pytest.raises(ValueError, match="params must be a mapping .*got None"):
    call(None)
