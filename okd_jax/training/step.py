"""The training step and the evaluation step: pure functions of arrays."""

import dataclasses
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from okd_jax import core, layers
from okd_jax.core import Array, Batch, Context, MethodOutput, Variables
from okd_jax.errors import ConfigError
from okd_jax.tasks import figure as figure_lib
from okd_jax.training import (
  average as average_lib,
  contract,
  given,
  parts,
  targets,
  turns as turns_lib,
)
from okd_jax.training.inputs import Inputs, prepare
from okd_jax.training.setup import Setup
from okd_jax.training.state import TrainState, variables


@struct.dataclass
class Aux:
  """What the computation of the loss returns besides its value.

  Attributes:
    result: output of the method, with terms multiplied by the weights of the
      examples.
    logits: logits of every peer, [P, B, *out].
    memory: memory after the pass.
  """

  result: MethodOutput
  logits: Array
  memory: Any


def train_step(
  setup: Setup,
  state: TrainState,
  batch: Batch,
  key: Array,
  teacher: Variables | None = None,
  train_labels: Array | None = None,
) -> tuple[TrainState, dict[str, Any]]:
  """Makes one update of a whole group.

  Args:
    setup: what stays fixed during the run.
    state: the state before the update.
    batch: images and targets.
    key: random key of the run; the step is folded in here.
    teacher: variables of the frozen teachers, if the method needs them.
    train_labels: int32 [N], see `okd_jax.core.Context`, if the method needs
      them. They are checked unless they are an argument of the compiled
      function.

  Returns:
    The state after the update, and measures: `terms` by name ([Q], one value
    per peer, or a scalar), `figures`, the task's headline figure for every peer
    on the batch [P], `learning_rate` if it is known, `rampup`, `gradient_norm`,
    and the method's `summaries`.
  """
  inputs, ctx, averaged_memory = prepare(
    setup, state, batch, key, teacher, train_labels
  )
  rate = _rate(setup, state.step)
  optimizer = optax.with_extra_args_support(setup.optimizer)

  turns = setup.method.turns(setup.peers.num_peers)
  before = (state.params, state.memory, state.opt_state)
  for turn in turns:
    params, memory, opt_state = before
    loss, grads, new_memory, measured, paused = _gradients(
      setup, params, memory, inputs, ctx
    )
    updates, opt_state = _update(
      optimizer, grads, opt_state, params, {"value": loss, **rate}
    )
    after = (optax.apply_updates(params, updates), new_memory, opt_state)
    before = turns_lib.take(setup, before, after, turn, paused)
  params, memory, opt_state = before

  new_state = TrainState(
    step=state.step + 1,
    params=params,
    memory=memory,
    opt_state=opt_state,
    average=average_lib.updated(setup, state, params, memory, averaged_memory),
  )
  return new_state, measured | {
    **rate,
    "rampup": ctx.rampup,
    "gradient_norm": optax.tree.norm(grads),
  }


def _update(
  optimizer: Any, grads: Any, opt_state: Any, params: Any, more: dict[str, Any]
) -> tuple[Any, Any]:
  try:
    return optimizer.update(grads, opt_state, params, **more)
  except (TypeError, ValueError, AttributeError) as error:
    raise ConfigError(
      "the optimizer cannot be updated with the gradients, its state, the "
      f"parameters and {', '.join(more)}: {error}. Take one that needs no "
      "more, and the state that training.init made with it."
    ) from error


def loss_fn(
  setup: Setup,
  params: Any,
  state: TrainState,
  batch: Batch,
  key: Array,
  teacher: Variables | None = None,
  train_labels: Array | None = None,
) -> tuple[Array, Aux]:
  """The loss that one update minimises, to compute gradients yourself.

  Args:
    setup: what stays fixed during the run.
    params: parameters to differentiate by, like `state.params`.
    state: the state, for everything but the parameters.
    batch: images and targets.
    key: random key of the run; the step is folded in here.
    teacher: variables of the frozen teachers, if the method needs them.
    train_labels: int32 [N], see `okd_jax.core.Context`, if the method needs
      them.

  Returns:
    The loss, a scalar, and the other results of the pass.
  """
  whole = dataclasses.replace(setup, accumulate=1)
  inputs, ctx, _ = prepare(whole, state, batch, key, teacher, train_labels)
  return _loss(setup, params, state.memory, inputs, ctx)


def eval_step(
  setup: Setup, params: Any, memory: Any, batch: Batch
) -> dict[str, Any]:
  """Measures a group on one batch.

  Args:
    setup: what stays fixed during the run.
    params: parameters of the trained or of the averaged group.
    memory: the memory that belongs to them.
    batch: images, targets and mask.

  Returns:
    `peers`: sums for every peer [P]; `predictions`: sums for the ensemble (the
    members' joint prediction), the method's own group predictions and the
    task's references; `diversity`: a sum over examples; `count`: the number of
    examples.
  """
  return measured(setup, batch, *predict(setup, params, memory, batch))


def measured(
  setup: Setup, batch: Batch, logits: Array, predictions: dict[str, Array]
) -> dict[str, Any]:
  """The sums of `eval_step`, computed from the result of `predict`."""
  references = setup.task.references(batch)
  known = {figure_lib.reference(name): r for name, r in references.items()}
  members = logits[jnp.array(setup.method.members(len(logits)))]
  return {
    "peers": setup.task.measure(logits, batch),
    "predictions": {
      name: setup.task.measure(value, batch)
      for name, value in (predictions | known).items()
    },
    "diversity": setup.task.diversity_sum(members, batch),
    "count": jnp.sum(batch.mask, dtype=jnp.int32),
  }


def predict(
  setup: Setup, params: Any, memory: Any, batch: Batch
) -> tuple[Array, dict[str, Array]]:
  """Logits of every peer [P, B, *out] and, by name, of the group [B, *out]."""
  given.check_batch(batch)
  views = setup.task.test_views(setup.task.normalize(batch))
  each = [predict_normalized(setup, params, memory, view) for view in views]
  merge = setup.task.merge_views
  return merge([logits for logits, _ in each]), {
    name: merge([predictions[name] for _, predictions in each])
    for name in each[0][1]
  }


def predict_normalized(
  setup: Setup, params: Any, memory: Any, batch: Batch
) -> tuple[Array, dict[str, Array]]:
  """The same as `predict`, for images that are normalised floats."""
  key = jax.random.key(0)  # nothing is random in evaluation
  outputs, _ = setup.peers.apply(
    variables(params, memory, "peers"), batch.image, key, train=False
  )
  result = contract.call(
    setup.method,
    variables(params, memory, "method"),
    targets.blank(setup, outputs),
    batch,
    setup.context(jnp.zeros((), jnp.int32), key, train=False),
  )
  result = contract.checked(setup, result, outputs.logits)
  members = jnp.array(setup.method.members(len(outputs.logits)))
  ensemble = setup.task.combine(outputs.logits[members])
  return outputs.logits, {"ensemble": ensemble, **result.predictions}


def _gradients(
  setup: Setup, params: Any, memory: Any, inputs: Inputs, ctx: Context
) -> tuple[Array, Any, Any, dict[str, Any], Array | None]:
  """The loss, its gradient, the new memory, measures, and the paused peers."""

  def one(memory, inputs, ctx):
    loss = functools.partial(_loss, setup, inputs=inputs, ctx=ctx)
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params, memory)
    headline = setup.task.headline_in_step(aux.logits, inputs.batch)
    measured = {
      "terms": {n: jnp.mean(t, -1) for n, t in aux.result.terms.items()},
      "figures": {setup.task.in_step(setup.task.info).name: headline},
      # Wide enough to be summed over many steps.
      "summaries": jax.tree.map(
        lambda x: layers.at_least_float32(jnp.asarray(x)), aux.result.summaries
      ),
    }
    return value, grads, aux.memory, measured, aux.result.paused

  if setup.accumulate == 1:
    return one(memory, inputs, ctx)

  def add(carry, part):
    (total, memory), (number, inputs) = carry, part
    value, grads, memory, *rest = one(
      memory, inputs, parts.context(ctx, number)
    )
    return (jax.tree.map(jnp.add, total, grads), memory), (value, *rest)

  (grads, memory), (values, measured, paused) = parts.scan(
    setup,
    add,
    (jax.tree.map(jnp.zeros_like, params), memory),
    (jnp.arange(setup.accumulate), inputs),
  )
  grads = jax.tree.map(lambda leaf: leaf / setup.accumulate, grads)
  measured = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), measured)
  # A peer is paused only if it is paused in every part.
  paused = None if paused is None else jnp.all(paused, 0)
  return jnp.mean(values), grads, memory, measured, paused


def _loss(
  setup: Setup, params: Any, memory: Any, inputs: Inputs, ctx: Context
) -> tuple[Array, Aux]:
  outputs, peers_memory = setup.peers.apply(
    variables(params, memory, "peers"),
    inputs.batch.image,
    inputs.key,
    train=True,
  )
  outputs = dataclasses.replace(
    outputs, ema=inputs.averaged, teacher=inputs.taught
  )
  result, method_memory = contract.call(
    setup.method,
    variables(params, memory, "method"),
    outputs,
    inputs.batch,
    ctx,
    mutable=list(memory["method"]),
  )
  result = contract.checked(setup, result, outputs.logits)
  new_memory = {"peers": peers_memory, "method": dict(method_memory)}
  weights = setup.task.weights(inputs.batch)
  terms = {name: term * weights for name, term in result.terms.items()}
  result = dataclasses.replace(result, terms=terms)
  return core.objective(terms), Aux(result, outputs.logits, new_memory)


def _rate(setup: Setup, step: Array) -> dict[str, Any]:
  """The learning rate of a step under its name, if it is known."""
  if setup.learning_rate is None:
    return {}
  return {"learning_rate": setup.learning_rate(step)}
