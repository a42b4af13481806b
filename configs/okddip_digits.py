"""OKDDip on scikit-learn's digits: the demo, a minute on two CPU cores.

Reproduces no published figure.

    python main.py --config=configs/okddip_digits.py
"""

from configs import common


def get_config(words: str = ""):
  config = common.digits(common.base())
  config.method = common.method("okddip")
  return common.variant(config, words)
