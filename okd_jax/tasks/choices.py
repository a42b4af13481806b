"""The class that every example was given, from which figures are computed."""

from flax import struct

from okd_jax.core import Array


@struct.dataclass
class Choices:
  """The classes that some networks give N examples.

  Attributes:
    label: int32 [N]; the most probable class of soft targets.
    index: int32 [N], see `okd_jax.core.Batch`.
    mask: bool [N], False on padding.
    first: int32 [..., N], the first choice.
    confidence: float [..., N], its probability.
  """

  label: Array
  index: Array
  mask: Array
  first: Array
  confidence: Array
