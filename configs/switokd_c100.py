"""SwitOKD on CIFAR-100, WRN-16-2 and 0.5x MobileNetV2 (Qian et al., ECCV 2022).

Published top-1 accuracy in % of the student, mean of three runs, best epoch on
test data: 67.24 +- 0.04 (Table 4). The authors train this student with a tenth
of the teacher's rate; here both have one rate. Teachers are named first and the
student last. Variants: "1t2s" and "2t1s", of WRN-16-10, WRN-16-2 and 0.5x
MobileNetV2 with one teacher or two; published of the MobileNetV2 64.62 and
65.03 (Table 7), with Adam.

    python main.py --config=configs/switokd_c100.py
"""

from configs import common


def get_config(words: str = "", data_set: str = "cifar100"):
  config = common.cifar(common.base(), data_set)
  words = roles(config, words, "wrn16_10", "wrn16_2", "mobilenet_v2_05")
  three = config.peers.num_peers == 3
  config.epochs = 269 if three else 299
  config.optim.nesterov = False
  config.optim.drops = tuple(e / config.epochs for e in (140, 200, 250))
  if data_set == "cifar100":
    config.image_mean = (0.507, 0.487, 0.441)
    config.image_std = (0.267, 0.256, 0.276)
  return common.variant(config, words)


def roles(config, words: str, first: str, second: str, third: str) -> str:
  """Chooses the method and its networks, in a recipe.

  Args:
    config: changed in place.
    words: behind the colon, "1t2s" or "2t1s" among them.
    first: the larger teacher of three networks.
    second: the teacher of two; of three, a student or the second teacher.
    third: the student that is deployed.

  Returns:
    The other words.
  """
  words, one_teacher = common.take(words, "1t2s")
  words, two_teachers = common.take(words, "2t1s")
  config.method = common.method("switokd", num_teachers=1 + two_teachers)
  nets = (first, second, third)
  nets = nets if one_teacher or two_teachers else nets[1:]
  config.peers.net, config.peers.num_peers = ",".join(nets), len(nets)
  return words
