"""No message between devices is sent in one branch of a condition.

XLA on CPU does not order such a message among those of other operations: two
devices can wait for each other, or take each other's sums for something else.
"""

import re

import jax
import pytest

from okd_jax.training import state as state_lib
import runs
import toys

MESSAGE = re.compile(r" (all-|reduce-scatter|collective-)[\w-]*\(")
# What one computation names of others, in attributes and as its operands.
NAMED = re.compile(r"%([\w.-]+)")


def in_conditions(text):
  """The messages in branches of conditions, and in what branches call."""
  blocks, name = {}, None
  for line in text.splitlines():
    if line.endswith("{") and not line.startswith(" "):
      name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
      blocks[name] = []
    elif name:
      blocks[name].append(line.strip())
  lines = [line for block in blocks.values() for line in block]
  todo = []
  for line in lines:
    if " conditional(" in line:
      todo += NAMED.findall(line.split(" conditional(")[1])
  seen, found = set(), []
  while todo:
    if (each := todo.pop()) in seen:
      continue
    seen.add(each)
    for line in blocks.get(each, ()):
      found += [line] if MESSAGE.search(line) else []
      todo += NAMED.findall(line)
  return found


def test_such_messages_are_found():
  program = jax.jit(
    jax.shard_map(
      lambda way, x: jax.lax.cond(
        way, lambda x: jax.lax.psum(x, "data"), lambda x: 2 * x, x
      ),
      mesh=toys.recipe(data=2).mesh,
      in_specs=(jax.P(), jax.P("data")),
      out_specs=jax.P(),
      check_vma=False,
    )
  )
  text = program.lower(True, jax.numpy.ones(2)).compile().as_text()
  assert len(in_conditions(text)) == 1


@pytest.mark.parametrize(
  ("method", "kind", "data", "peer", "changes"),
  [
    ("dml", "replicas", 2, 1, {"accumulate": 2}),
    pytest.param("ffsd", "replicas", 2, 1, {}, marks=pytest.mark.long),
    pytest.param("ffl", "branches", 2, 1, {}, marks=pytest.mark.long),
    pytest.param("ffl", "replicas", 2, 2, {}, marks=pytest.mark.long),
    pytest.param("okddip", "branches", 2, 1, {}, marks=pytest.mark.long),
    pytest.param("one", "branches", 2, 1, {}, marks=pytest.mark.long),
    pytest.param("pcl", "replicas", 2, 2, {}, marks=pytest.mark.long),
  ],
)
@pytest.mark.parametrize("mapping", ["vmap", "unroll"])
def test_a_step_sends_no_message_in_one(
  method, kind, data, peer, changes, mapping
):
  setup = toys.recipe(
    method, kind=kind, data=data, peer=peer, mapping=mapping, **changes
  )
  state = state_lib.init(setup, jax.random.key(0))
  step = runs.jitted(setup, state)
  batch = runs.on_mesh(setup, toys.batch(0, setup.batch_size))
  given = (state, batch, jax.random.key(1), runs.teacher(setup))
  text = step.lower(*given, runs.train_labels(setup)).compile().as_text()
  assert MESSAGE.search(text)
  assert in_conditions(text) == []
