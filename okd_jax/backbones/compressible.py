"""Networks that can be compressed after the split.

Walawalkar et al., `Online Ensemble Model Compression using Knowledge
Distillation <https://arxiv.org/abs/2011.07449>`_, 2020: students of equal depth
and shrinking width on one common trunk.
"""

from fractions import Fraction
import math

from okd_jax.backbones.network import Network
from okd_jax.errors import ConfigError


class Compressible(Network, kw_only=True):
  """Network whose tail may be narrower than its trunk.

  The trunk is that of the uncompressed network, so tails of different widths
  fit on one trunk, and a trunk and its tail are a whole network.

  Attributes:
    tail_width: what is left of the widths of the stages after the split, in
      (0, 1]. Widths are rounded down.
  """

  tail_width: Fraction = Fraction(1)

  def width_in(self, stage: int, width: int) -> int:
    """Returns what stage number `stage` has for `width` channels."""
    if stage <= self.split:
      return width
    return math.floor(width * self.tail_width)

  def narrowest(self) -> int:
    """Smallest number of channels that `tail_width` applies to."""
    raise NotImplementedError

  def check(self) -> None:
    super().check()
    least = Fraction(1, self.narrowest())
    if not least <= self.tail_width <= 1:
      raise ConfigError(
        f"tail_width={self.tail_width} must be from {least} to 1, so that "
        f"{self.narrowest()} channels become one at least."
      )
