"""Names of the leaves of trees, such as `params/stem/kernel`."""

from typing import Any

import jax


def name(path: Any) -> str:
  """The name of a leaf by its path, see `jax.tree_util`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: Any) -> list[tuple[str, Any]]:
  """The leaves of a tree with their names, in tree order."""
  return [
    (name(path), leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]
