"""The table before training."""

import re
import types

from configs import independent_digits, kd_digits
from okd_jax.runs import summary
from okd_jax.settings.freeze import freeze
import toys

SOURCE = types.SimpleNamespace(
  info=toys.INFO,
  train_size=50_000,
  positions={"validation": (), "test": range(10_000)},
  notes=(),
)


def test_one_network_is_no_group_of_one(capsys):
  config = independent_digits.get_config()
  config.peers.net, config.peers.num_peers = "toys:Toy", 1
  setup = toys.recipe("independent", num_peers=1)
  summary.show_plan(freeze(config), setup, SOURCE)
  plan = capsys.readouterr().out
  for line in (r"method +independent", r"peers +toys:Toy"):
    assert re.search(rf"^{line} *$", plan, re.MULTILINE), plan
  assert "50,000 to train, 0 to validate, 10,000 to test" in plan


def test_a_teacher_is_named(capsys):
  config = kd_digits.get_config()
  config.peers.net, config.teacher = "toys:Toy", "runs/teacher"
  summary.show_plan(freeze(config), toys.recipe("kd", num_peers=1), SOURCE)
  assert re.search(r"^teacher +runs/teacher *$", capsys.readouterr().out, re.M)
