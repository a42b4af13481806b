r"""CTKD on CIFAR-10, WRN-16-1 with WRN-40-1 (Zhao et al., 2019).

Reproduces no published figure: the networks of the paper's tables could not be
found. Variants as in configs/ctkd_c100.py.

    python main.py --config=configs/ctkd_c10.py \
        --config.teacher=RUN
"""

from configs import ctkd_c100


def get_config(words: str = ""):
  return ctkd_c100.get_config(words, "cifar10")
