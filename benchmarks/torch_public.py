"""Writes tests/vectors/public.json: small networks of timm and torchvision.

    pip install timm==1.0.31 torchvision==0.28.0
    python -m benchmarks.torch_public

They are the projects' own classes, as narrow as these allow, so that names,
shapes and order of the entries are those of the weights that people download.
"""

import json
from pathlib import Path
import sys

from timm.models import convnext, efficientnet, resnet, vision_transformer
from timm.models._efficientnet_builder import decode_arch_def
import torch
from torch import nn
from torchvision.models import convnext as tv_convnext, mobilenetv2

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import fingerprints  # noqa: E402

SIZE = 32
CLASSES = 5


def vit(**options):
  return vision_transformer.VisionTransformer(
    SIZE, 8, embed_dim=8, depth=4, num_heads=2, num_classes=CLASSES, **options
  )


def mobilenet_of_timm():
  blocks = decode_arch_def([["ds_r1_k3_s1_c16"], ["ir_r2_k3_s2_e6_c24"]])
  return efficientnet.EfficientNet(
    blocks, num_classes=CLASSES, num_features=1280, act_layer=nn.ReLU6
  )


def convnext_of_torchvision():
  blocks = [
    tv_convnext.CNBlockConfig(4, 8, 1),
    tv_convnext.CNBlockConfig(8, None, 2),
  ]
  return tv_convnext.ConvNeXt(blocks, num_classes=CLASSES)


NETWORKS = {
  "timm/vit": vit(),
  "timm/vit_mean": vit(class_token=False, global_pool="avg", fc_norm=False),
  "timm/convnext": convnext.ConvNeXt(
    depths=(1, 2, 1, 1), dims=(4, 8, 8, 8), num_classes=CLASSES
  ),
  "timm/resnet": resnet.ResNet(
    resnet.Bottleneck, (1, 2, 1, 1), num_classes=CLASSES, channels=(4, 8, 8, 8)
  ),
  "timm/mobilenet": mobilenet_of_timm(),
  "torchvision/convnext": convnext_of_torchvision(),
  "torchvision/mobilenet": mobilenetv2.MobileNetV2(
    CLASSES, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2]]
  ),
}


def case(net):
  shapes = {
    name: tuple(value.shape) for name, value in net.state_dict().items()
  }
  filled = fingerprints.entries(shapes)
  net.load_state_dict({k: torch.from_numpy(v) for k, v in filled.items()})
  x = torch.from_numpy(fingerprints.images(2, SIZE)).permute(0, 3, 1, 2)
  with torch.no_grad():
    logits = net.double().eval()(x)
  return {"entries": shapes, "logits": logits.tolist()}


def main():
  torch.set_default_dtype(torch.float64)
  cases = {name: case(net.double()) for name, net in NETWORKS.items()}
  path = ROOT / "tests" / "vectors" / "public.json"
  path.write_text(json.dumps(cases))


if __name__ == "__main__":
  main()
