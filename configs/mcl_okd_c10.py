"""MCL-OKD on CIFAR-10, four ResNet-32 branches (Yang et al., ICASSP 2021).

Reproduces no published figure: the authors train on CIFAR-100. Variants as in
configs/mcl_okd_c100.py.

    python main.py --config=configs/mcl_okd_c10.py
"""

from configs import mcl_okd_c100


def get_config(words: str = ""):
  return mcl_okd_c100.get_config(words, "cifar10")
