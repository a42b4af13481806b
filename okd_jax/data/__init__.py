"""Data: sources of batches, their order, and augmentation.

`make` builds a source from a configuration. Data that are missing, damaged or
not as expected raise `DataError`; a wrong configuration raises `ConfigError`.
"""

from okd_jax.data.augment import (
  augment as augment,
  denormalize as denormalize,
  normalize as normalize,
)
from okd_jax.data.config import check as check, Config as Config
from okd_jax.data.info import DataInfo as DataInfo
from okd_jax.data.make import (
  division as division,
  make as make,
  untested as untested,
)
from okd_jax.data.sources.source import Source as Source
