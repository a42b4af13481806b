"""The feature maps of a group, for methods that compare or fuse them."""

from okd_jax import core, layers
from okd_jax.core import Array
from okd_jax.errors import ConfigError


def of_stages(
  name: str, outputs: core.Outputs, at_least: int = 1
) -> list[list[Array]]:
  """For every stage, the map [B, H, W, D] of every peer, the deepest one last.

  Args:
    name: name of the method, for messages.
    outputs: outputs of the group.
    at_least: least number of stages.

  Raises:
    ConfigError: if the networks return fewer stages, or other arrays than maps.
  """
  stages = [
    [layers.at_least_float32(each) for each in stage]
    for stage in core.require_maps(name, outputs, at_least)
  ]
  for each in (each for stage in stages for each in stage):
    if each.ndim != 4:
      raise ConfigError(
        f"method '{name}' reads maps [B, H, W, D], and a network returns one "
        f"of shape {list(each.shape)}; give it a height and a width."
      )
  return stages
