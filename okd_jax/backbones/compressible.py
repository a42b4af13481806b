"""Networks that can be compressed after the split.

They are for Walawalkar et al., `Online Ensemble Model Compression using
Knowledge Distillation <https://arxiv.org/abs/2011.07449>`_, 2020: students of
equal depth and decreasing width share one trunk.
"""

from fractions import Fraction
import math

from okd_jax.backbones.network import Network
from okd_jax.errors import ConfigError


class Compressible(Network, kw_only=True):
  """Network whose tail may be narrower than its trunk.

  The trunk is that of the uncompressed network. So tails of different widths
  fit on one trunk, and the trunk forms a whole network with each of them.

  Attributes:
    tail_width: fraction, in (0, 1], of the channels that stages after the split
      keep. Numbers of channels are rounded down.
  """

  tail_width: Fraction = Fraction(1)

  def width_in(self, stage: int, width: int) -> int:
    """Returns the number of channels that a stage has in place of `width`."""
    if stage <= self.split:
      return width
    return math.floor(width * self.tail_width)

  def narrowest(self) -> int:
    """Smallest number of channels to which `tail_width` may apply."""
    raise NotImplementedError

  def check(self) -> None:
    super().check()
    least = Fraction(1, self.narrowest())
    if not least <= self.tail_width <= 1:
      raise ConfigError(
        f"tail_width={self.tail_width} must be from {least} to 1, so that at "
        f"least one of {self.narrowest()} channels is left."
      )
