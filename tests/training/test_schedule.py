"""Learning rates by step, and steps as epochs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax.errors import ConfigError
from okd_jax.training import schedule as schedule_lib
from okd_jax.training.clock import Clock
from okd_jax.training.schedule import Schedule
import runs
import toys

# 100 examples in batches of 10.
CLOCK = Clock(batch_size=10, train_size=100, epochs=10)


def rates(schedule, clock=CLOCK, **options):
  rate = jax.jit(
    schedule_lib.make(schedule, clock, **({"base": 0.5} | options))
  )
  return np.array([rate(step) for step in range(clock.total_steps)])


def test_multistep_drops_at_the_published_epochs():
  clock = Clock(batch_size=1, train_size=1, epochs=300)
  found = rates(Schedule(), clock, base=0.1, drops=(0.5, 0.75))
  np.testing.assert_allclose(
    found[[0, 149, 150, 224, 225]], [0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6
  )
  # Shorter runs drop at the same fractions.
  found = rates(Schedule(), base=0.1, drops=(0.5, 0.75))
  np.testing.assert_allclose(found[[49, 50, 74]], [0.1, 0.01, 0.01], rtol=1e-6)


def test_multistep_begins_with_the_full_rate_however_short_the_run_is():
  for epochs, expected in ((1, [0.5]), (2, [0.5, 0.05 * 0.1])):
    clock = Clock(batch_size=1, train_size=1, epochs=epochs)
    found = rates(Schedule(), clock, drops=(0.2, 0.5))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
  "epochs, drops, last", [(1, (0.5,), 0.5), (30, (0.5, 0.99), 0.05)]
)
def test_multistep_ends_with_the_rate_of_its_last_epoch(epochs, drops, last):
  clock = Clock(batch_size=1, train_size=2, epochs=epochs)
  rate = schedule_lib.make(Schedule(), clock, base=0.5, drops=drops)
  steps = jnp.arange(2 * epochs - 1, 2 * epochs + 4)
  np.testing.assert_allclose(rate(steps), np.full(5, last), rtol=1e-6)


def test_multistep_drops_at_the_first_step_of_an_epoch_however_long():
  clock = Clock(batch_size=1, train_size=1_000_000, epochs=2000)
  rate = schedule_lib.make(Schedule(), clock, base=1.0, drops=(0.5,))
  # As a fraction of float32 the first step would be in epoch 1000 already.
  steps = jnp.array([10**9 - 1, 10**9])
  np.testing.assert_allclose(rate(steps), [1.0, 0.1], rtol=1e-6)


def test_cosine_linear_and_constant():
  t = np.arange(100) / 100
  cosine = 0.5 * (0.1 + 0.9 * (1 + np.cos(math.pi * t)) / 2)
  np.testing.assert_allclose(
    rates(Schedule("cosine", final=0.1)), cosine, rtol=1e-5
  )
  np.testing.assert_allclose(
    rates(Schedule("linear", final=0.1)), 0.5 * (1 - 0.9 * t), rtol=1e-5
  )
  np.testing.assert_array_equal(rates(Schedule("constant")), np.full(100, 0.5))


def test_one_cycle_rises_and_falls_as_in_torch():
  # torch.optim.lr_scheduler.OneCycleLR(max_lr=0.5, total_steps=100,
  # pct_start=0.3) turns at step 29 of 99; here the fall ends after the run.
  found = rates(Schedule("one_cycle"))
  end = schedule_lib.make(Schedule("one_cycle"), CLOCK, base=0.5)(100)
  np.testing.assert_allclose(end, 0.5 / 25 / 1e4, rtol=1e-3)
  np.testing.assert_allclose(found[0], 0.5 / 25, rtol=1e-5)
  assert np.argmax(found) == 30
  np.testing.assert_allclose(found[30], 0.5, rtol=1e-5)
  np.testing.assert_allclose(found[15], (0.5 + 0.5 / 25) / 2, rtol=1e-4)
  np.testing.assert_allclose(found[65], 0.5 / 2, rtol=1e-3)
  assert np.all(np.diff(found[:31]) > 0) and np.all(np.diff(found[30:]) < 0)
  for steps in (1, 29, 99):
    assert np.argmax(rates(Schedule("one_cycle", warmup_steps=steps))) == steps
  for epochs in (1, 2):
    clock = Clock(batch_size=1, train_size=1, epochs=epochs)
    assert np.all(np.isfinite(rates(Schedule("one_cycle"), clock)))


@pytest.mark.parametrize("name", ["multistep", "cosine", "linear", "constant"])
@pytest.mark.parametrize(
  "warmup", [{"warmup_epochs": 0.4}, {"warmup_steps": 4}]
)
def test_warm_up_rises_to_the_full_rate_and_never_starts_at_zero(name, warmup):
  found = rates(Schedule(name, **warmup), drops=(0.5,))
  np.testing.assert_allclose(found[:4], 0.5 * np.array([1, 2, 3, 4]) / 4)
  rest = Clock(batch_size=1, train_size=1, epochs=96)
  if name == "multistep":  # drops stay where they are
    np.testing.assert_allclose(found[[49, 50]], [0.5, 0.05], rtol=1e-6)
  else:
    np.testing.assert_allclose(
      found[4:], rates(Schedule(name), rest), rtol=1e-5
    )


@pytest.mark.parametrize(
  ("schedule", "says"),
  [
    (Schedule(warmup_epochs=10.0), "warmup_epochs=10.0 must be shorter"),
    (Schedule("cosine", warmup_steps=100), "warmup_steps=100 must be shorter"),
    (Schedule(warmup_epochs=1.0, warmup_steps=1), "only one of them"),
  ],
)
def test_wrong_warm_up_is_refused(schedule, says):
  with pytest.raises(ConfigError, match=says):
    rates(schedule)


def test_steps_and_epochs_convert_in_one_place():
  clock = Clock(batch_size=16, train_size=40, epochs=4)
  assert clock.total_steps == 10
  assert [clock.first_step(epoch) for epoch in range(4)] == [0, 3, 5, 8]
  assert [clock.epoch(step) for step in (0, 2, 3, 9)] == [0, 0, 1, 3]
  assert [clock.steps_of(epochs) for epochs in (0.0, 0.4, 2.0)] == [0, 1, 5]
  np.testing.assert_allclose(clock.time(jnp.array([0, 1, 4])), [0, 0.4, 1.6])


@pytest.mark.parametrize("name", schedule_lib.NAMES)
def test_many_steps_at_once_have_the_rates_of_each(name):
  made = schedule_lib.make(Schedule(name), CLOCK, base=0.5, drops=(0.5,))
  steps = jnp.arange(CLOCK.total_steps)
  np.testing.assert_allclose(
    np.broadcast_to(made(steps), steps.shape),
    rates(Schedule(name), drops=(0.5,)),
    rtol=1e-4,
    atol=1e-7,
  )


def test_the_rate_shown_is_the_one_used():
  setup = toys.recipe(
    "independent",
    net=toys.Quick(),
    num_peers=1,
    sgd=toys.Optim(0.5, momentum=0.0, nesterov=False, weight_decay=0.0),
    schedule=Schedule("cosine", warmup_steps=2),
  )
  before = jax.device_get(runs.start(setup))
  for step, rate in enumerate([0.25, 0.5, 0.5]):
    start = jax.tree.map(jnp.copy, before)
    after, measured = runs.jitted(setup, before)(
      start, runs.on_mesh(setup, toys.batch(step)), jax.random.key(1)
    )
    np.testing.assert_allclose(measured["learning_rate"], rate, rtol=1e-6)
    moved = jax.tree.map(lambda a, b: (a - b) ** 2, after.params, before.params)
    length = math.sqrt(sum(float(m.sum()) for m in jax.tree.leaves(moved)))
    np.testing.assert_allclose(
      length, rate * float(measured["gradient_norm"]), rtol=1e-4
    )
    before = jax.device_get(after)
