"""What FFSD says of maps that do not fit."""

import jax
import numpy as np
import pytest

from okd_jax import losses

MAP = np.ones((4, 2, 2, 3))
OTHERS = [[MAP], [MAP]]
ARGUMENTS = {
  "logits": np.zeros((3, 4, 5)),
  "fused_logits": np.zeros((4, 5)),
  "labels": np.arange(4),
  "deep_maps": [MAP, MAP, MAP],
  "fused_map": MAP,
  "widened_map": MAP,
  "shallow_maps": OTHERS,
  "guided_maps": OTHERS,
  "decoded_maps": OTHERS,
}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"deep_maps": None}, "deep_maps must be a sequence; got None"),
    ({"fused_map": MAP[:, :1]}, "fused_map must be "),
    ({"widened_map": MAP[:2]}, "widened_map must be "),
    ({"shallow_maps": []}, "shallow_maps must be .* 2 peers; got "),
    ({"shallow_maps": [[], []]}, "shallow_maps must be .*at least one"),
    ({"guided_maps": [MAP[None]]}, r"guided_maps must be .*got \[1\]"),
    ({"guided_maps": None}, "guided_maps must be a sequence; got None"),
    ({"guided_maps": [[MAP], None]}, r"guided_maps\[1\] must be a sequence"),
    ({"guided_maps": [[MAP], [MAP[:, :1]]]}, r"guided_maps\[1\]\[0\] must be "),
    (
      {"decoded_maps": [[MAP[..., :1]], [MAP]]},
      r"decoded_maps\[0\]\[0\] must ",
    ),
    (
      dict.fromkeys(
        ("shallow_maps", "guided_maps", "decoded_maps"), [[MAP[:2]], [MAP[:2]]]
      ),
      r"shallow_maps\[0\]\[0\] must be .*with B = 4",
    ),
  ],
)
def test_maps_that_do_not_fit_are_refused_by_name(change, message):
  jax.eval_shape(lambda: losses.ffsd(**ARGUMENTS))
  with pytest.raises(ValueError, match=f"^ffsd: {message}"):
    losses.ffsd(**ARGUMENTS | change)
