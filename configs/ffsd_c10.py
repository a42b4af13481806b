"""FFSD on CIFAR-10, two students and a leader of ResNet-32 (Li et al., 2022).

Reproduces no published figure. Variants: any network of okd_jax.backbones.

    python main.py --config=configs/ffsd_c10.py
"""

from configs import ffsd_c100


def get_config(words: str = ""):
  return ffsd_c100.get_config(words, "cifar10")
