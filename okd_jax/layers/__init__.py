"""Layers that follow the conventions of the published code (PyTorch)."""

from okd_jax.layers._arrays import (
  at_least_float32 as at_least_float32,
  unit_vectors as unit_vectors,
)
from okd_jax.layers._batch_norm import (
  BatchNorm as BatchNorm,
  EPSILON as EPSILON,
  MOMENTUM as MOMENTUM,
)
from okd_jax.layers._conv import conv as conv
from okd_jax.layers._dropout import (
  drop as drop,
)
from okd_jax.layers._initializers import (
  he_fan_in as he_fan_in,
  he_fan_out as he_fan_out,
  uniform_bias as uniform_bias,
  uniform_fan_in as uniform_fan_in,
)
from okd_jax.layers._linear import linear as linear
from okd_jax.layers._together import convolve_together as convolve_together
