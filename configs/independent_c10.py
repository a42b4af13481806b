"""Independent training on CIFAR-10, four ResNet-32.

Published top-1 accuracy in %, one network: ResNet-110 94.91, VGG-16 93.96,
DenseNet-40-12 93.19 (Gou et al., arXiv 2006.05525, tables that copy the
original papers). Variants: any network of okd_jax.backbones, and "branches" for
"Ind".

    python main.py --config=configs/independent_c10.py
"""

from configs import independent_c100


def get_config(words: str = ""):
  return independent_c100.get_config(words, "cifar10")
