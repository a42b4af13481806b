"""Refuses what a method must not return, and says why."""

from typing import Any

from flax import errors
import jax.numpy as jnp

from okd_jax import trees
from okd_jax.core import (
  Array,
  Batch,
  Context,
  Method,
  MethodOutput,
  Outputs,
  Variables,
)
from okd_jax.errors import ConfigError
from okd_jax.tasks import figure as figure_lib
from okd_jax.training import given, measures
from okd_jax.training.setup import Setup

# What a record holds beside the terms.
_TAKEN = (*figure_lib.NOT_FIGURES, "loss", *measures.SCALARS)


def call(
  method: Method,
  variables: Variables,
  outputs: Outputs,
  batch: Batch,
  ctx: Context,
  **kwargs: Any,
) -> Any:
  """Applies a method, as `method.apply` does.

  Raises:
    ConfigError: if it asks for what it is not given.
  """
  try:
    return method.apply(variables, outputs, batch, ctx, **kwargs)
  except errors.FlaxError as error:
    raise ConfigError(
      f"{given.name(method)} cannot be trained and evaluated: {error} Make all "
      "variables in the first call; change what is remembered only if "
      "ctx.train; draw random numbers by ctx.key, which layers such as "
      "nn.Dropout take as `rng`."
    ) from error


def checked(setup: Setup, result: Any, logits: Array) -> MethodOutput:
  """Returns what a method returned.

  Args:
    setup: the setup, with the method that is named in errors.
    result: what it returned.
    logits: logits of the peers, [P, B, *out].

  Raises:
    ConfigError: if it is no `MethodOutput`, a term, summary or prediction has a
      name that stands for something else in records, or if terms, predictions
      or `paused` do not have the shapes that it describes.
  """
  who = given.name(setup.method)
  if not isinstance(result, MethodOutput):
    raise ConfigError(
      f"{who} returned {result!r:.60}; return "
      "okd_jax.core.MethodOutput(terms), with the loss terms by name."
    )
  _check_names(who, result, setup.task.in_step(setup.task.info).name)
  num_peers, num_examples = logits.shape[:2]
  for name, term in result.terms.items():
    shape = jnp.shape(term)
    if (
      shape[-1:] != (num_examples,)
      or len(shape) > 2
      or (len(shape) == 2 and shape[0] > num_peers)
    ):
      raise ConfigError(
        f"the term '{name}' of {who} has shape {shape}, and must have "
        f"({num_examples},) or ({num_peers}, {num_examples}): a value for each "
        "example, and perhaps for each peer. Do not take the mean over "
        "examples; the step does."
      )
  for name, prediction in result.predictions.items():
    if jnp.shape(prediction) != logits.shape[1:]:
      raise ConfigError(
        f"the prediction '{name}' of {who} has shape {jnp.shape(prediction)}, "
        f"and must have that of one peer's logits, {logits.shape[1:]}; return "
        "one prediction for the group."
      )
  if (paused := result.paused) is not None:
    found = getattr(paused, "dtype", type(paused)), jnp.shape(paused)
    if found != (jnp.bool_, (num_peers,)):
      raise ConfigError(
        f"`paused` of {who} is {found[0]} of shape {found[1]}, and must be "
        f"bool of shape ({num_peers},): whether each peer is left as it is."
      )
  return result


def check_refreshed(method: Method, memory: Variables, renewed: Any) -> None:
  """Refuses what cannot replace collections of a method's state.

  Args:
    method: the method.
    memory: its collections other than parameters.
    renewed: what its `refresh` returned.

  Raises:
    ConfigError: if it is no dictionary of collections that the method has, with
      their names, shapes and dtypes.
  """
  who = given.name(method)
  if not isinstance(renewed, dict):
    raise ConfigError(
      f"refresh of {who} returned {renewed!r:.60}; return new values "
      "of collections, such as {'weights': {'peers': ...}}."
    )
  for name, tree in renewed.items():
    have, wanted = _described(tree), _described(memory.get(name, {}))
    if have != wanted:
      raise ConfigError(
        f"refresh of {who} returned '{name}' with {have or 'nothing'}"
        f", and the method keeps {wanted or 'nothing'} there; return all of a "
        "collection, with names, shapes and dtypes of the first call."
      )


def _described(tree: Any) -> str:
  return ", ".join(
    f"{name} {jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
    for name, leaf in trees.named(tree)
  )


def _check_names(who: str, result: MethodOutput, headline: str) -> None:
  taken = (*_TAKEN, headline)
  for kind, names, others in (
    ("term", result.terms, taken),
    ("summary", result.summaries, (*taken, *result.terms)),
  ):
    for name in names:
      if name in others or "/" in name:
        raise ConfigError(
          f"the {kind} '{name}' of {who} must have another name: records have "
          f"{', '.join(others)} of their own, and '/' stands before the index "
          "of an element."
        )
  for name in result.predictions:
    if not figure_lib.is_free(name):
      raise ConfigError(
        f"the prediction '{name}' of {who} must have another name: evaluations "
        "measure the leader, the ensemble (the members' joint prediction), "
        "peers, their mean and references under such names; '/' stands "
        "between parts of a figure's name."
      )
