"""Write the file, recipe, test and page of a new method.

The new method can be trained and passes the tests; it is a template to change.
"""

import argparse
import importlib.util
import keyword
from pathlib import Path
import re
from string import Template
from typing import Any

from okd_jax import methods
from okd_jax.cli import places
from okd_jax.errors import ConfigError
from okd_jax.storage import files as storage

_METHOD = '''"""$title: peers learn from the mean of all of them."""

import jax
import jax.numpy as jnp

from okd_jax import core, losses


class Method(core.Method):
  """Every peer learns from the labels and from the mean of the peers' logits.

  Attributes:
    temperature: of the distillation.
    kd_weight: of the distillation, before the ramp-up.
  """

  temperature: float = core.positive(3.0)
  kd_weight: float = core.at_least(1.0, 0)

  @property
  def min_peers(self):
    return 2

  def __call__(self, outputs, batch, ctx):
    core.require_peers("$name", outputs, self.min_peers)
    logits = outputs.logits  # [P, B, C]
    target = jax.lax.stop_gradient(jnp.mean(logits, 0))
    kd = losses.softened_kl(logits, target, temperature=self.temperature)
    return core.MethodOutput(
      {
        "peer_ce": losses.cross_entropy(logits, batch.target),  # [P, B]
        "peer_kd": self.kd_weight * ctx.rampup * kd,  # [P, B]
      }
    )
'''

_RECIPE = '''"""$title on $data.

Reproduces no published figure.

    python main.py --config=$path
"""

from configs import common


def get_config(words: str = ""):
  config = $base
  config.method = common.method("$method")
  return common.variant(config, words)
'''

_TEST = '''"""$title, against a calculation in NumPy$and_suite."""

import jax
import jax.numpy as jnp
import numpy as np

$imports

def test_terms_are_those_of_numpy():
  logits = np.random.default_rng(0).normal(size=(3, 4, 5))
  labels = np.array([0, 4, 2, 1])
  outputs = core.Outputs(jnp.asarray(logits), jnp.zeros((3, 4, 2)))
  batch = core.Batch(
    image=jnp.zeros((4, 2, 2, 1)),
    target=jnp.asarray(labels),
    index=jnp.arange(4),
    mask=jnp.ones(4, bool),
  )
  ctx = core.Context(
    epoch=jnp.float32(0),
    step=jnp.int32(0),
    rampup=jnp.float32(0.5),
    key=jax.random.key(0),
    num_examples=4,
    train=True,
  )
  method = Method(temperature=2.0)
  terms = method.apply({}, outputs, batch, ctx).terms

  def log_softmax(x):
    return x - np.log(np.sum(np.exp(x), -1, keepdims=True))

  ce = -log_softmax(logits)[:, np.arange(4), labels]
  p, q = log_softmax(logits.mean(0) / 2), log_softmax(logits / 2)
  kd = 0.5 * 4 * np.sum(np.exp(p) * (p - q), -1)
  np.testing.assert_allclose(terms["peer_ce"], ce, rtol=1e-4)
  np.testing.assert_allclose(terms["peer_kd"], kd, rtol=1e-4)
'''

_SUITE = """

def test_method_conforms():
  testing.check_method(Method)
"""

_PAGE = """# $title

What it is, with its source.

```
python main.py --config=configs/${name}_c100.py
```

## Equations

Symbols that all methods share are under [notation](index.md#notation).

Every peer learns from the labels and from the mean of all logits:

$$$$
L = \\sum_i \\mathrm{CE}(z_i)
  + \\mathrm{KL}_\\tau\\Big(\\frac{1}{m} \\sum_j z_j \\,\\Big\\|\\, z_i\\Big).
$$$$

## From symbol to code

| in the paper | here |
|---|---|
| $$\\mathrm{CE}(z_i)$$ | `peer_ce` |
| $$\\mathrm{KL}_\\tau$$ | `peer_kd` |

The method, which turns the group's outputs into these terms:

```python linenums="1"
--8<-- "okd_jax/methods/$name.py"
```
"""

_DATA = {
  "digits": ("scikit-learn's digits", "common.digits(common.base())"),
  "c100": ("CIFAR-100", 'common.cifar(common.base(), "cifar100")'),
}


def add_arguments(command: Any) -> None:
  """Defines the arguments of the command."""
  command.add_argument("name", metavar="NAME", help="name, in lower_case")
  command.add_argument(
    "--to",
    type=places.to_write(places.path, folder=True),
    metavar="DIR",
    help="folder outside the package to write to",
  )


def run(args: argparse.Namespace) -> None:
  """Writes the files and prints their names."""
  for path in write(args.name, args.to):
    print(path)


def write(name: str, to: Path | None = None) -> list[Path]:
  """Writes the files of a method.

  Args:
    name: name of its module.
    to: a folder outside the package; None writes into the package.

  Returns:
    The files that are new or changed.

  Raises:
    ConfigError: if the name is not allowed, or if a file exists already.
  """
  if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
    raise ConfigError(
      f"new-method got {name!r}; name the method in lower case, digits and "
      "underscores, as a Python module."
    )
  if name in methods.names():
    raise ConfigError(f"there is a method '{name}'; choose another name.")
  root = Path(__file__).resolve().parents[2]
  changed: dict[Path, str] = {}
  if to is None:
    if not (root / "mkdocs.yml").exists():
      raise ConfigError(
        "okd_jax is installed here without its repository; write the method "
        "elsewhere with --to=DIR, and name it as module:Class."
      )
    files = {root / path: text for path, text in _inside(name).items()}
    changed = _listed(root, name)
  else:
    if importlib.util.find_spec(name):
      raise ConfigError(
        f"Python has a module '{name}' already, and would take one for the "
        "other; choose another name."
      )
    files = {to / path: text for path, text in _outside(name, to).items()}
  for path in files:
    if path.exists():
      raise ConfigError(f"{path} is there already; choose another name.")
  for path, text in (files | changed).items():
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write(path, text)
  return list(files | changed)


def _inside(name: str) -> dict[str, str]:
  """The texts of the files in the repository, by their paths."""
  imports = "from okd_jax import core\n"
  imports += f"from okd_jax.methods.{name} import Method\n"
  return {
    f"okd_jax/methods/{name}.py": _fill(_METHOD, name),
    **{
      f"configs/{name}_{data}.py": _recipe(name, data, name, "configs/")
      for data in _DATA
    },
    f"tests/methods/test_{name}.py": _fill(
      _TEST, name, imports=imports, and_suite=""
    ),
    f"docs/methods/{name}.md": _fill(_PAGE, name),
  }


def _outside(name: str, to: Path) -> dict[str, str]:
  """The texts of the files in a user's own folder, by their names."""
  sorted_by_module = sorted(
    [f"from {name} import Method", "from okd_jax import core, testing"],
    key=lambda line: line.split()[1],
  )
  imports = "\n".join(sorted_by_module) + (
    "\n\n# Meshes are compared on virtual devices.\n"
    'jax.config.update("jax_num_cpu_devices", 4)\n'
  )
  suite = " and by the conformance suite"
  # As it was given, unless that might be too long for a line.
  folder = (
    f"{to.name}/" if to.is_absolute() else "" if to == Path() else f"{to}/"
  )
  return {
    f"{name}.py": _fill(_METHOD, name),
    f"{name}_digits.py": _recipe(name, "digits", f"{name}:Method", folder),
    f"test_{name}.py": _fill(
      _TEST + _SUITE, name, imports=imports, and_suite=suite
    ),
  }


def _recipe(name: str, data: str, method: str, folder: str) -> str:
  title, base = _DATA[data]
  path = f"{folder}{name}_{data}.py"
  return _fill(_RECIPE, name, data=title, base=base, method=method, path=path)


def _listed(root: Path, name: str) -> dict[Path, str]:
  """The lists of methods with one more entry, the last."""
  navigation = root / "mkdocs.yml"
  overview = root / "docs" / "methods" / "index.md"
  readme = root / "README.md"
  entry = f"      - {_title(name)}: methods/{name}.md"
  does = "the mean of all peers | either | first |"
  return {
    navigation: _after_last(navigation, r"      - .*: methods/\w+\.md", entry),
    overview: _after_last(
      overview, r"\| \[\w+\]\(\w+\.md\) \|.*", f"| [{name}]({name}.md) | {does}"
    ),
    readme: _after_last(
      readme,
      r"\| \[`\w+`\]\(docs/methods/\w+\.md\) \|.*",
      f"| [`{name}`](docs/methods/{name}.md) | {does} |",  # and the paper
    ),
  }


def _after_last(path: Path, line: str, added: str) -> str:
  text = path.read_text(encoding="utf-8")
  end = list(re.finditer(f"^{line}$", text, re.MULTILINE))[-1].end()
  return f"{text[:end]}\n{added}{text[end:]}"


def _title(name: str) -> str:
  return name.replace("_", " ").capitalize()


def _fill(text: str, name: str, **words: str) -> str:
  return Template(text).substitute(name=name, title=_title(name), **words)
