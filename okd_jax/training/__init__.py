"""The training step, its state and its evaluation, for your own training loop.

`Setup` says what stays fixed, `init` draws a `TrainState`, `abstract` gives the
shapes and shardings of one, to restore it, and `train_step`,
`loss_fn`, `eval_step` and `predict` are pure functions of both. They need no
configuration and no files.
"""

from okd_jax.training.setup import Setup as Setup, with_optim as with_optim
from okd_jax.training.state import (
  abstract as abstract,
  init as init,
  shardings as shardings,
  TrainState as TrainState,
)
from okd_jax.training.step import (
  eval_step as eval_step,
  loss_fn as loss_fn,
  predict as predict,
  train_step as train_step,
)
