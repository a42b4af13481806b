"""Refuses what a method must not return, and says why."""

from typing import Any

import jax.numpy as jnp

from okd_jax.core import Array, Method, MethodOutput
from okd_jax.errors import ConfigError

# What a record holds beside the terms.
_TAKEN = ("step", "kind", "loss", "learning_rate", "rampup", "gradient_norm")


def checked(method: Method, result: Any, logits: Array) -> MethodOutput:
  """Returns what a method returned.

  Args:
    method: the method, to be named in errors.
    result: what it returned.
    logits: logits of the peers, [P, B, *out].

  Raises:
    ConfigError: if it is no `MethodOutput`, a term has a name that records
      cannot have, or terms or predictions do not have the shapes that it
      describes.
  """
  who = f"{type(method).__module__}:{type(method).__qualname__}"
  if not isinstance(result, MethodOutput):
    raise ConfigError(
      f"{who} returned {result!r:.60}; return "
      "okd_jax.core.MethodOutput(terms), with the loss terms by name."
    )
  num_peers, num_examples = logits.shape[:2]
  for name, term in result.terms.items():
    if name in _TAKEN or "/" in name:
      raise ConfigError(
        f"the term '{name}' of {who} must have another name: records have "
        f"{', '.join(_TAKEN)} of their own, and '/' stands before the index of "
        "an element."
      )
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
  return result
