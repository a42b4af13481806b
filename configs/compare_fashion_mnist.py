"""All methods on Fashion-MNIST, ResNet-20, three seeds.

No published figures.

    python -m okd_jax compare --config=configs/compare_fashion_mnist.py
"""

from configs import common, comparison


def get_config(words: str = ""):
  base = common.fashion_mnist(common.base())
  config = comparison.grid(base, "resnet20", "resnet32")
  return comparison.variant(config, words)
