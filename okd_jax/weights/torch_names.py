"""Layers of timm's networks under names that sort as the layers run.

A file of safetensors keeps its entries in alphabetical order, and timm calls
some layers in another one than they run: `proj` runs after `qkv`, and a
`downsample` before the `blocks` of its stage. The names of torchvision and
those of timm's residual networks need no help.
"""

from collections.abc import Callable, Container
import re

# For each kind of network: an entry that tells it, and what is replaced.
_LAYOUTS: dict[str, tuple[tuple[str, str], ...]] = {
  # vit_*, deit_*
  "blocks.0.attn.qkv.weight": ((r"\.qkv$", ".layer0"), (r"\.proj$", ".layer1")),
  # convnext_*
  "stages.0.blocks.0.conv_dw.weight": ((r"\.downsample\.", ".a."),),
  # mobilenetv2_*: the first block has no expansion.
  "blocks.1.0.conv_pwl.weight": (
    (r"^(conv_stem|bn1)$", r"stem.\1"),
    (r"^(conv_head|bn2)$", r"head.\1"),
    (r"^blocks\.0\.0\.conv_pw$", "blocks.0.0.conv3"),
    (r"conv_pw$", "conv1"),
    (r"conv_dw$", "conv2"),
    (r"conv_pwl$", "conv3"),
  ),
}


def sortable(entries: Container[str]) -> Callable[[str], str] | None:
  """How to rename the layers of a state dict so that they sort as they run.

  Args:
    entries: names in the state dict.

  Returns:
    A function of a layer's name, or None if this is no such network.
  """
  found = (rules for mark, rules in _LAYOUTS.items() if mark in entries)
  rules = next(found, None)
  if rules is None:
    return None

  def rename(name: str) -> str:
    for pattern, replacement in rules:
      name = re.sub(pattern, replacement, name)
    return name

  return rename
