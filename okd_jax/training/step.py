"""The training step and the evaluation step: pure functions of arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from okd_jax import core, schedules
from okd_jax.core import Array, Batch, Outputs, Variables
from okd_jax.tasks import classification as metrics
from okd_jax.training import state as state_lib, targets
from okd_jax.training.setup import Recipe
from okd_jax.training.state import Average, TrainState, variables


def train_step(
  recipe: Recipe,
  state: TrainState,
  batch: Batch,
  key: Array,
  teacher: Variables | None = None,
) -> tuple[TrainState, dict[str, Any]]:
  """Makes one update of a whole group.

  Args:
    recipe: what stays fixed.
    state: before the update.
    batch: uint8 images and labels.
    key: of the run; the step is folded in here.
    teacher: variables of the frozen teachers, if the method needs them.

  Returns:
    The state after the update, and measures: `terms` by name ([Q], a value a
    peer, or a scalar), `accuracy` of every peer on the batch [P],
    `learning_rate`, `rampup`, `gradient_norm`, and the method's `summaries`.
  """
  augment_key, peers_key, method_key = jax.random.split(
    jax.random.fold_in(key, state.step), 3
  )
  ctx = recipe.context(state.step, method_key, train=True)
  images = recipe.augment(batch.image, augment_key)
  averaged, average_memory = _averaged_pass(recipe, state, images, peers_key)
  taught = _teacher_pass(recipe, teacher, images, peers_key)
  learning_rate = recipe.learning_rate(state.step)

  def loss_fn(params, memory):
    outputs, peers_memory = recipe.peers.apply(
      variables(params, memory, "peers"), images, peers_key, train=True
    )
    outputs = dataclasses.replace(outputs, ema=averaged, teacher=taught)
    result, method_memory = recipe.method.apply(
      variables(params, memory, "method"),
      outputs,
      batch,
      ctx,
      mutable=list(memory["method"]),
    )
    new_memory = {"peers": peers_memory, "method": dict(method_memory)}
    return core.objective(result.terms), (result, outputs.logits, new_memory)

  before = (state.params, state.memory, state.opt_state)
  for turn in recipe.method.turns(recipe.peers.num_peers):
    params, memory, opt_state = before
    grads, (result, logits, memory) = jax.grad(loss_fn, has_aux=True)(
      params, memory
    )
    updates, opt_state = recipe.optimizer.update(
      grads, opt_state, params, learning_rate=learning_rate
    )
    after = (optax.apply_updates(params, updates), memory, opt_state)
    before = after if turn is None else _only_peer(recipe, turn, before, after)
  params, memory, opt_state = before

  new_state = TrainState(
    step=state.step + 1,
    params=params,
    memory=memory,
    opt_state=opt_state,
    average=_update_average(recipe, state, params, average_memory),
  )
  measured = {
    "terms": {name: jnp.mean(t, -1) for name, t in result.terms.items()},
    "accuracy": jnp.mean(jnp.argmax(logits, -1) == batch.label, -1),
    "learning_rate": learning_rate,
    "rampup": ctx.rampup,
    "gradient_norm": optax.tree.norm(grads),
    "summaries": result.summaries,
  }
  return new_state, measured


def eval_step(
  recipe: Recipe, params: Any, memory: Any, batch: Batch
) -> dict[str, Any]:
  """Measures a group on one batch.

  Args:
    recipe: what stays fixed.
    params: of the live or of the averaged group.
    memory: likewise.
    batch: uint8 images, labels and mask.

  Returns:
    `peers`: sums for every peer [P]; `predictions`: sums for the ensemble (the
    mean of the members' logits) and the method's own group predictions;
    `diversity`: a sum over examples.
  """
  logits, predictions = predict(recipe, params, memory, batch)
  members = logits[jnp.array(recipe.method.members(len(logits)))]
  return {
    "peers": metrics.sums(logits, batch),
    "predictions": {
      name: metrics.sums(value, batch) for name, value in predictions.items()
    },
    "diversity": metrics.diversity_sum(members, batch),
  }


def predict(
  recipe: Recipe, params: Any, memory: Any, batch: Batch
) -> tuple[Array, dict[str, Array]]:
  """Logits of every peer [P, B, C], and of the group by name, each [B, C]."""
  image = recipe.normalize(batch.image)
  batch = dataclasses.replace(batch, image=image)
  return predict_normalized(recipe, params, memory, batch)


def predict_normalized(
  recipe: Recipe, params: Any, memory: Any, batch: Batch
) -> tuple[Array, dict[str, Array]]:
  """The same for images that are normalised floats."""
  key = jax.random.key(0)  # nothing is random in evaluation
  outputs, _ = recipe.peers.apply(
    variables(params, memory, "peers"), batch.image, key, train=False
  )
  result: Any = recipe.method.apply(
    variables(params, memory, "method"),
    targets.blank(recipe, outputs),
    batch,
    recipe.context(jnp.zeros((), jnp.int32), key, train=False),
  )
  members = jnp.array(recipe.method.members(len(outputs.logits)))
  ensemble = jnp.mean(outputs.logits[members], 0)
  return outputs.logits, {"ensemble": ensemble, **result.predictions}


def _averaged_pass(
  recipe: Recipe, state: TrainState, images: Array, key: Array
) -> tuple[Outputs | None, Any]:
  if state.average is None:
    return None, None
  params, memory = state.average.params, state.average.memory
  outputs, peers_memory = recipe.peers.apply(
    variables(params, memory, "peers"), images, key, train=True
  )
  return jax.lax.stop_gradient(outputs), {**memory, "peers": peers_memory}


def _teacher_pass(
  recipe: Recipe, teacher: Variables | None, images: Array, key: Array
) -> Outputs | None:
  if recipe.teacher is None:
    return None
  assert teacher is not None, "the recipe has a teacher, so the step needs it"
  seen = images[0] if images.ndim == 5 else images
  outputs, _ = recipe.teacher.apply(teacher, seen, key, train=False)
  return jax.lax.stop_gradient(outputs)


def _update_average(
  recipe: Recipe, state: TrainState, params: Any, memory: Any
) -> Average | None:
  decay = recipe.method.needs.ema_decay
  if state.average is None or decay is None:
    return None
  phi = schedules.ema_decay(state.step + 1, decay)
  return Average(
    params=jax.tree.map(
      lambda mean, new: phi * mean + (1 - phi) * new,
      state.average.params,
      params,
    ),
    memory=memory,
  )


def _only_peer(recipe: Recipe, peer: int, before: Any, after: Any) -> Any:
  """Takes what belongs to one peer from `after` and the rest from `before`."""
  params, memory, opt_state = before
  by_params, by_memory = state_lib.owners(recipe, params, memory)
  by_state = state_lib.like_params(
    recipe, opt_state, by_params, otherwise=range(0)
  )

  def select(peers, old, new):
    if not peers:
      return new
    own = jnp.asarray(peers) == peer
    return jnp.where(own.reshape(-1, *[1] * (old.ndim - 1)), new, old)

  return jax.tree.map(select, (by_params, by_memory, by_state), before, after)
