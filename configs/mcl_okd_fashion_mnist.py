"""MCL-OKD on Fashion-MNIST, four ResNet-20 branches.

Reproduces no published figure.

    python main.py --config=configs/mcl_okd_fashion_mnist.py
"""

from configs import common, mcl_okd_c100


def get_config(words: str = ""):
  config = common.fashion_mnist(common.base())
  mcl_okd_c100.recipe(config)
  config.optim.learning_rate = 0.05
  return mcl_okd_c100.few_negatives(common.variant(config, words))
