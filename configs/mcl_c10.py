"""MCL on CIFAR-10, two ResNet-32 networks (Yang et al., AAAI 2022).

Nothing is published. With ten classes a batch of 128 holds 12 or 14 images of
each. Variants: any network of okd_jax.backbones, and "branches": four, which
share the stem and the first stage.

    python main.py --config=configs/mcl_c10.py
"""

from configs import mcl_c100


def get_config(words: str = ""):
  return mcl_c100.get_config(words, "cifar10")
