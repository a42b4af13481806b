"""MCL-OKD on scikit-learn's digits, four ResNet-8 branches.

Reproduces no published figure.

    python main.py --config=configs/mcl_okd_digits.py
"""

from configs import common, mcl_okd_c100


def get_config(words: str = ""):
  config = common.digits(common.base())
  mcl_okd_c100.recipe(config)
  return mcl_okd_c100.few_negatives(common.variant(config, words))
