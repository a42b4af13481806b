"""Schedules against the published tables, as numbers and as arrays."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import schedules


def as_numbers(function, values):
  return [function(value) for value in values]


def as_traced_array(function, values):
  with jax.enable_x64(True):
    return jax.jit(function)(np.asarray(values))


BOTH = pytest.mark.parametrize("apply", [as_numbers, as_traced_array])


@BOTH
@pytest.mark.parametrize(**golden.cases("okddip", "rampup"))
def test_rampup(case, apply):
  rows = case["expected"]
  for length in {row[1] for row in rows}:
    epochs = [row[0] for row in rows if row[1] == length]
    weights = [row[2] for row in rows if row[1] == length]
    golden.assert_value(
      apply(lambda epoch, n=length: schedules.rampup(epoch, n), epochs), weights
    )


@BOTH
@pytest.mark.parametrize(**golden.cases("pcl", "ramp"))
def test_rampup_of_fractional_epochs(case, apply):
  rows = case["expected"]
  for length in {row["alpha"] for row in rows}:
    chosen = [row for row in rows if row["alpha"] == length]
    weights = apply(
      lambda epoch, n=length: schedules.rampup(epoch, n),
      [float(row["epoch"]) for row in chosen],
    )
    golden.assert_value(
      np.asarray(weights) * [row["lam"] for row in chosen],
      [row["weight"] for row in chosen],
    )


@BOTH
@pytest.mark.parametrize(**golden.cases("pcl", "phi"))
def test_ema_decay(case, apply):
  golden.assert_value(
    apply(
      lambda step: schedules.ema_decay(step, case["params"]["beta"]),
      case["inputs"]["g"],
    ),
    case["expected"]["phi"],
  )


@BOTH
@pytest.mark.parametrize(**golden.cases("pcl", "ema"))
def test_average_over_steps(case, apply):
  steps = range(1, len(case["expected"]["phi"]) + 1)
  decays = apply(
    lambda step: schedules.ema_decay(step, case["params"]["beta"]), list(steps)
  )
  golden.assert_value(decays, case["expected"]["phi"])
  mean = golden.array(case["inputs"]["initial_mean"])
  for decay, new, expected in zip(
    np.asarray(decays),
    golden.array(case["inputs"]["theta_after_each_step"]),
    case["expected"]["mean_after_each_step"],
    strict=True,
  ):
    mean = decay * mean + (1 - decay) * new
    golden.assert_value(mean, expected)


@BOTH
def test_multistep_drops_at_the_start_of_an_epoch(apply):
  rates = apply(
    lambda epoch: schedules.multistep(epoch, base=0.1, drops=(150, 225)),
    [0, 149, 150, 224, 225, 299],
  )
  golden.assert_value(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@BOTH
def test_multistep_without_drops_is_constant(apply):
  rates = apply(
    lambda epoch: schedules.multistep(epoch, base=0.1, drops=()), [0, 9]
  )
  golden.assert_value(rates, [0.1, 0.1])


@pytest.mark.parametrize("dtype", ["int32", "bfloat16", "float32"])
def test_arrays_give_float32(dtype):
  epoch = jnp.asarray(3, dtype)
  for value in (
    schedules.rampup(epoch, 80),
    schedules.rampup(epoch, 0),
    schedules.multistep(epoch, base=0.1, drops=(2,)),
    schedules.ema_decay(epoch, 0.999),
  ):
    assert value.dtype == jnp.float32
    assert value.shape == ()


def test_wrong_input_is_refused():
  with pytest.raises(ValueError, match="length=-1 must not be negative"):
    schedules.rampup(0, -1)
  with pytest.raises(ValueError, match="length=nan must not be negative"):
    schedules.rampup(0, float("nan"))
  with pytest.raises(ValueError, match="step=0 must be at least 1"):
    schedules.ema_decay(0, 0.999)
