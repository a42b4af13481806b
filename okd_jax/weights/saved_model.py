"""Writes TensorFlow's SavedModel."""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any

import jax
from jax.experimental import jax2tf
import numpy as np
import tensorflow as tf

from okd_jax.errors import ConfigError
from okd_jax.storage.paths import Path

# What the names of variables may not contain in TensorFlow.
_OTHERS = re.compile(r"[^\w.]", re.ASCII)


def write(
  fn: Callable[[Any, Any], Any],
  weights: Mapping[str, np.ndarray],
  image_shape: tuple[int, int, int],
  folder: Path,
  platforms: Sequence[str],
) -> None:
  """Writes a SavedModel with one signature: images to logits, any batch size.

  Args:
    fn: function of weights and float32 images [B, H, W, c] that JAX can trace;
      returns logits [B, *out].
    weights: arrays by name.
    image_shape: (H, W, c).
    folder: folder to write to.
    platforms: platforms of the program, as for `jax.export`.

  Raises:
    ConfigError: if TensorFlow is too old to read what JAX writes.
  """
  converted = jax2tf.convert(
    fn,
    polymorphic_shapes=[None, "(batch, ...)"],
    native_serialization_platforms=tuple(platforms),
    with_gradient=False,
  )
  module = tf.Module()
  module.weights = {
    name: tf.Variable(value, trainable=False, name=_name(name))
    for name, value in weights.items()
  }
  images = tf.TensorSpec((None, *image_shape), tf.float32, name="images")
  module.predict = tf.function(
    lambda images: {"logits": converted(module.weights, images)},
    input_signature=[images],
    autograph=False,
    jit_compile=True,
  )
  tf.saved_model.save(
    module, str(folder), signatures={"serving_default": module.predict}
  )
  _try(folder, np.zeros((1, *image_shape), np.float32))


def _name(path: str) -> str:
  return _OTHERS.sub("_", path.replace("/", "."))


def _try(folder: Path, images: np.ndarray) -> None:
  """Runs the saved program once: saving succeeds even if it cannot run."""
  signatures = tf.saved_model.load(str(folder)).signatures
  try:
    signatures["serving_default"](images=tf.constant(images))
  except tf.errors.InvalidArgumentError as error:
    if "Cannot deserialize" not in str(error):
      raise
    raise ConfigError(
      f"--format=savedmodel: TensorFlow {tf.__version__} cannot read the "
      f"programs of JAX {jax.__version__}; install a newer TensorFlow, or an "
      "older JAX (with TensorFlow 2.21, jax 0.10 works)."
    ) from error
