"""Writes TensorFlow's SavedModel."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.experimental import jax2tf
import numpy as np
import tensorflow as tf


def write(
  fn: Callable[[Any, Any], Any],
  weights: Mapping[str, np.ndarray],
  image_shape: tuple[int, int, int],
  folder: Path,
  platforms: Sequence[str],
) -> None:
  """Saves a function with one signature, images to logits, for any batch size.

  Args:
    fn: traceable by JAX; maps weights and float32 images [B, H, W, c] to
      logits [B, C].
    weights: arrays by name.
    image_shape: (H, W, c).
    folder: to write to.
    platforms: as for `jax.export`.
  """
  converted = jax2tf.convert(
    fn,
    polymorphic_shapes=[None, "(batch, ...)"],
    native_serialization_platforms=tuple(platforms),
    with_gradient=False,
  )
  module = tf.Module()
  module.weights = {
    name: tf.Variable(value, trainable=False, name=name.replace("/", "."))
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
