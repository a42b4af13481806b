"""Renames layers of timm's networks so that they sort in running order.

A .safetensors file keeps its entries in alphabetical order, and some names of
timm do not sort in the order in which the layers run: `proj` runs after `qkv`,
and `downsample` before the `blocks` of its stage. The names of torchvision and
of timm's residual networks need no change.
"""

from collections.abc import Callable, Iterable
import re

# For each kind of network: an entry that identifies it, and the replacements.
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


def sortable(entries: Iterable[str]) -> Callable[[str], str] | None:
  """A function that renames layers so that they sort in running order.

  Args:
    entries: names of the entries of a state dict, which may have a prefix as
      of a wrapper: `module.` or `model.`.

  Returns:
    A function from a layer's name to the new one, or None if this is no
    network whose layers need it.
  """
  found = (
    (entry.removesuffix(mark), rules)
    for entry in entries
    for mark, rules in _LAYOUTS.items()
    if f".{entry}".endswith(f".{mark}")
  )
  prefix, rules = next(found, ("", ()))
  if not rules:
    return None

  def rename(name: str) -> str:
    name = name.removeprefix(prefix)
    for pattern, replacement in rules:
      name = re.sub(pattern, replacement, name)
    return name

  return rename
