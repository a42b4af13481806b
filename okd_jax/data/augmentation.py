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

  They come in the order of the keys, those of one picture from `crop` to
  `cutout`, the mirror image (config.data.flip) after the crop.

  Attributes:
    crop: whether pictures are padded and cropped; those of the source stream
      always are.
    policy: none, rand_augment, or trivial_augment (the wide space).
    operations: of rand_augment, changes of one picture, one after another.
    level: of rand_augment, how strong they are, of 30.
    jitter: changes of brightness, contrast and saturation by factors of 1 - a
      to 1 + a, and of the hue by -a to a, parts of the colour circle.
    erase: probability that a random rectangle is erased.
    cutout: side of a square that is erased, in pixels; 0 for none.
    mixup: alpha of the Beta distribution of the shares of two mixed pictures
      and their targets; 0 for none.
    cutmix: alpha for a rectangle of another picture; with mixup, too, each
      batch draws one of both.
    mix_per_peer: whether every peer sees other mixtures, and other crops. Only
      for peers that learn nothing from each other, as distillation compares
      what is said of one picture.
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


# As the papers on distillation have it.
PLAIN = Augment()
