"""CL-ILR on CIFAR-10, four ResNet-32 branches (Song and Chai, NeurIPS 2018).

Published top-1 accuracy in %, mean of branches, ResNet-32: 94.02 +- 0.28 (Wu
and Gong, AAAI 2021, their own runs, as copied in a public reproduction of their
paper). Variants: any network of okd_jax.backbones.

    python main.py --config=configs/cl_ilr_c10.py
"""

from configs import cl_ilr_c100


def get_config(words: str = ""):
  return cl_ilr_c100.get_config(words, "cifar10")
