"""Losses of online knowledge distillation, as pure functions of arrays.

Peers are on the first axis, examples on the next, classes on the last. Nothing
is reduced over examples. Only jax and NumPy are imported.
Computation is in float32 at least; float64 stays float64.

There is one function for each paper. It returns named, weighted loss terms,
[P, B] or [B] each; the loss is the mean over examples, summed over terms and
peers. To leave examples out, multiply every term by a mask [B] and divide it by
the mask's mean:

>>> import jax.numpy as jnp
>>> logits, labels = jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0])
>>> term, mask = cross_entropy(logits, labels), jnp.array([1.0, 0.0])
>>> print(f"{jnp.mean(term * mask / jnp.mean(mask)):.4f} = {term[0]:.4f}")
0.1269 = 0.1269

The masked examples' terms must be finite, so give them some valid label. To
functions that treat the batch as a whole (`mcl`, `supervised_nce`, `mcl_okd`,
`mcl_okd_of_scores`, `switokd`, `switokd_gap`, `switokd_group`,
`feature_aggregation`, `kdcl_general_weights`, and `kdcl_linear_target` of scope
"batch"), give arrays without them.

`labels` are class indices, integer [B], or probabilities, float [B, C]; one-hot
probabilities give the same result as indices. `mcl` and `supervised_nce` take
indices only. Probabilities are not normalised to sum to one. An index outside
[0, C) is refused if it is known when the function is called; one that only the
running program knows (under `jit`) gives nan, as value and as gradient of its
example.

A logit of -inf masks a class: it gets the probability 0 and, in a target, no
`eps`. The loss is then that of the unmasked classes alone, and gradients stay
finite. If the student masks a class that the labels or the target do not mask,
the loss is infinite; if all logits of a row are -inf, it is nan.

A wrong argument raises an error that is both a ValueError and an
AssertionError. It names the function and the argument, and says what was
expected and what was given.
"""

from okd_jax.losses._ctkd import ctkd as ctkd
from okd_jax.losses._divergences import (
  cross_entropy as cross_entropy,
  softened_cross_entropy as softened_cross_entropy,
  softened_kl as softened_kl,
)
from okd_jax.losses._feature_aggregation import (
  feature_aggregation as feature_aggregation,
)
from okd_jax.losses._ffl import ffl as ffl
from okd_jax.losses._ffsd import ffsd as ffsd
from okd_jax.losses._kdcl import (
  kdcl as kdcl,
  kdcl_general_target as kdcl_general_target,
  kdcl_general_weights as kdcl_general_weights,
  kdcl_linear_target as kdcl_linear_target,
  kdcl_minlogit_target as kdcl_minlogit_target,
  kdcl_naive_target as kdcl_naive_target,
)
from okd_jax.losses._maps import (
  attention_distance as attention_distance,
  diverse_attention as diverse_attention,
  map_distance as map_distance,
  spatial_attention as spatial_attention,
)
from okd_jax.losses._mcl import (
  mcl as mcl,
  supervised_nce as supervised_nce,
)
from okd_jax.losses._mcl_okd import (
  mcl_okd as mcl_okd,
  mcl_okd_of_scores as mcl_okd_of_scores,
)
from okd_jax.losses._memory_bank import memory_update as memory_update
from okd_jax.losses._mutual import (
  cl_ilr as cl_ilr,
  dml as dml,
  dml_ensemble as dml_ensemble,
)
from okd_jax.losses._oem import oem as oem
from okd_jax.losses._okddip import okddip as okddip
from okd_jax.losses._okdhp import (
  heatmap_kl as heatmap_kl,
  heatmap_mse as heatmap_mse,
  okdhp as okdhp,
)
from okd_jax.losses._one import one as one
from okd_jax.losses._pcl import pcl as pcl
from okd_jax.losses._peers import (
  leave_one_out_mean as leave_one_out_mean,
  mix_peers as mix_peers,
  peer_attention as peer_attention,
  peer_diversity as peer_diversity,
  scale_gradient as scale_gradient,
)
from okd_jax.losses._switokd import (
  switokd as switokd,
  switokd_gap as switokd_gap,
  switokd_group as switokd_group,
)
from okd_jax.losses._teacher import kd as kd

__all__ = (
  "attention_distance",
  "cl_ilr",
  "cross_entropy",
  "ctkd",
  "diverse_attention",
  "dml",
  "dml_ensemble",
  "feature_aggregation",
  "ffl",
  "ffsd",
  "heatmap_kl",
  "heatmap_mse",
  "kd",
  "kdcl",
  "kdcl_general_target",
  "kdcl_general_weights",
  "kdcl_linear_target",
  "kdcl_minlogit_target",
  "kdcl_naive_target",
  "leave_one_out_mean",
  "map_distance",
  "mcl",
  "mcl_okd",
  "mcl_okd_of_scores",
  "memory_update",
  "mix_peers",
  "oem",
  "okddip",
  "okdhp",
  "one",
  "pcl",
  "peer_attention",
  "peer_diversity",
  "scale_gradient",
  "softened_cross_entropy",
  "softened_kl",
  "spatial_attention",
  "supervised_nce",
  "switokd",
  "switokd_gap",
  "switokd_group",
)
