"""Which random changes training makes of pictures and targets."""

import dataclasses

from okd_jax import rules

_JITTER = rules.Rule(
  lambda v: (
    len(v) in (0, 4)
    and all(0 <= amount <= rules.LARGEST for amount in v)
    and (not v or v[3] <= 0.5)
  ),
  "empty, or four numbers of at least 0, the last at most 0.5",
  ((0.4,), (0.4, 0.4, 0.4, 0.6), (-0.1, 0.0, 0.0, 0.0), ("a",) * 4),
)
_PART = rules.Rule(
  lambda v: 0 <= v <= 1, "at least 0 and at most 1", (-0.1, 1.1)
)


@dataclasses.dataclass(frozen=True)
class Augment:
  """Random changes of pictures and targets in training.

  They are applied in the order of the keys; those from `crop` to `cutout`
  change one picture. Mirroring (config.data.flip) follows the crop.

  Attributes:
    crop: whether pictures are padded and cropped at random; with the source
      "stream" they are always cropped.
    policy: random changes of each picture: "none", "rand_augment", or
      "trivial_augment" (its wide space).
    operations: with rand_augment, number of changes that are made of a picture,
      one after another.
    level: with rand_augment, how strong these changes are, from 0 to 30.
    jitter: four strengths a: brightness, contrast and saturation are multiplied
      by random factors from 1 - a to 1 + a, and the hue is shifted by -a to a
      of the colour circle.
    erase: probability that a random rectangle is erased.
    cutout: side of a square that is erased, in pixels; 0 for none.
    mixup: alpha of the Beta distribution from which the shares of two mixed
      pictures and of their targets are drawn; 0 for none.
    cutmix: the same alpha for replacing a rectangle by that of another picture;
      0 for none. If mixup is set as well, each batch draws one of the two.
    mix_per_peer: whether every peer sees other mixtures and other crops. Only
      for peers that learn nothing from each other, as distillation compares
      predictions for the same picture.
  """

  crop: bool = rules.flag(True, added=True)
  policy: str = rules.one_of(
    "none", "none", "rand_augment", "trivial_augment", added=True
  )
  operations: int = rules.between(2, 1, 15, added=True)
  level: int = rules.between(9, 0, 31, added=True)
  jitter: tuple[float, ...] = rules.field((), _JITTER, added=True)
  erase: float = rules.field(0.0, _PART, added=True)
  cutout: int = rules.between(0, 0, 2**15, added=True)
  mixup: float = rules.at_least(0.0, 0, added=True)
  cutmix: float = rules.at_least(0.0, 0, added=True)
  mix_per_peer: bool = rules.flag(False, added=True)

  @property
  def mixes(self) -> bool:
    """Whether pictures are mixed, so that targets are probabilities."""
    return self.mixup > 0 or self.cutmix > 0


# What the papers on distillation do.
PLAIN = Augment()
