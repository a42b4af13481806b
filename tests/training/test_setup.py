"""What a setup refuses, for people who make one themselves."""

import jax
import numpy as np
import pytest

from okd_jax import groups, methods, training
from okd_jax.devices.mesh import make_mesh
from okd_jax.errors import ConfigError
from okd_jax.methods import dml
from okd_jax.training import state as state_lib
from okd_jax.training.optim import Optim
from okd_jax.training.schedule import Schedule
from okd_jax.training.setup import steps_key
import toys

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"batch_size": 0}, "batch_size=0 must be a whole number above 0"),
    ({"train_size": 0}, "train_size=0 must be a whole number above 0"),
    ({"epochs": 1.5}, "epochs=1.5 must be a whole number above 0"),
    ({"epochs": 2**26}, "at most 2147483647 examples, as they are"),
    ({"accumulate": 0}, "accumulate=0 must be a whole number above 0"),
    ({"rampup_epochs": -1}, "rampup_epochs=-1 must be a finite number"),
    ({"rampup_epochs": float("nan")}, "rampup_epochs=nan must be"),
    ({"ema_decay": 2.0}, "ema_decay=2.0 must be at least 0 and below 1"),
    ({"method": dml.Method(temperature=-1.0)}, "dml.temperature=-1.0 must be"),
    ({"method": "pcl", "ema_decay": 0.9}, "'pcl' keeps averages of its own"),
  ],
  ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_numbers_out_of_range_are_refused(changes, says):
  with pytest.raises(ConfigError, match=says):
    toys.recipe(**{"method": "dml", "data": 2} | changes)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"sgd": Optim(name="rmsprop")}, "optim.name='rmsprop' must be one of sgd"),
    ({"sgd": Optim(momentum=1.5)}, "optim.momentum=1.5 must be"),
    ({"schedule": Schedule("cosin")}, "schedule.name='cosin' must be one of"),
  ],
)
def test_optimizer_and_schedule_are_made_by_their_rules(changes, says):
  with pytest.raises(ConfigError, match=says):
    toys.recipe("dml", **changes)


@pytest.mark.parametrize("weight", [float("nan"), -1.0, "1", None])
def test_a_method_is_made_by_its_rules(weight):
  with pytest.raises(ConfigError, match="dml.kd_weight=.* must be"):
    methods.make("dml", kd_weight=weight)


def test_a_network_for_other_classes_is_not_trained():
  setup = toys.recipe("dml", net=toys.Quick(4))
  says = r"have shape \(4,\), and these data need \(5,\)"
  with pytest.raises(ConfigError, match=says):
    training.init(setup, KEY)


def test_steps_of_a_run_draw_alike_on_every_mesh_whatever_the_default():
  with jax.default_prng_impl("rbg"):
    key = steps_key(3)
  np.testing.assert_array_equal(
    jax.random.key_data(key),
    jax.random.key_data(jax.random.key(3, impl="threefry2x32")),
  )


@pytest.mark.parametrize(
  ("method", "changes", "says"),
  [
    ("dml", {"accumulate": 3}, "of 16 examples must be a multiple of 3"),
    (
      "dml",
      {"accumulate": 16, "data": 2},
      "must be a multiple of 32: each of 2",
    ),
    ("kd", {"teacher": None}, "give the setup a group as teacher"),
    ("kd", {}, "pass their variables"),
    ("mcl_okd", {}, "pass train_labels"),
  ],
)
def test_what_a_step_cannot_do_without_is_named(method, changes, says):
  setup = toys.recipe(method, **changes)
  state = state_lib.abstract(setup, KEY)
  with pytest.raises(ConfigError, match=says):
    jax.eval_shape(
      lambda *given: training.train_step(setup, *given),
      *(state, toys.batch(0), KEY),
    )


def test_parts_that_the_teachers_devices_cannot_share_are_refused():
  peers = toys.recipe("kd", peer=2).peers
  wide = groups.replicas(toys.Quick(5), 1, make_mesh(2))
  setup = toys.recipe("kd", peers=peers, teacher=wide, accumulate=16)
  state = state_lib.abstract(setup, KEY)
  teacher = wide.init(KEY, setup.example_images())
  with pytest.raises(ConfigError, match="1 examples.*16 part.* multiple of 2"):
    jax.eval_shape(
      lambda *given: training.train_step(setup, *given),
      *(state, toys.batch(0), KEY, teacher),
    )


@pytest.mark.parametrize(
  ("method", "make", "says"),
  [
    ("cl_ilr", groups.branches, "has trunk_gradient='sum', and the method nee"),
    ("cl_ilr", groups.replicas, "needs branches, and the peers are replicas"),
    ("switokd", groups.branches, "needs replicas, and the peers are branches"),
  ],
)
def test_a_group_of_another_kind_is_not_trained(method, make, says):
  setup = toys.recipe(method, peers=make(toys.Toy(5), 2, make_mesh(1)))
  state = state_lib.abstract(setup, KEY)
  with pytest.raises(ConfigError, match=says):
    jax.eval_shape(
      lambda *given: training.train_step(setup, *given),
      *(state, toys.batch(0), KEY),
    )
