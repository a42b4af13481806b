"""What the pages say of the code, in tables and in words, is so."""

import importlib
import inspect
from pathlib import Path
import re
from unittest import mock

import jax.numpy as jnp
import numpy as np

from okd_jax import backbones, errors, losses, methods
from okd_jax.data.formats import finder
from okd_jax.devices import alive, distributed, early
from okd_jax.runs import events
from okd_jax.settings import freeze, idle
from okd_jax.storage import growing, lease
from okd_jax.training import optim
from okd_jax.weights import torch_archive
import toys

ROOT = Path(__file__).parents[1]


def text_of(page):
  return (ROOT / page).read_text()


def tables(page, *columns):
  """The tables of a page that have these columns, a dict for each row."""
  for table in re.findall(r"(?:^\|.*\n)+", text_of(page), re.MULTILINE):
    head, _, *lines = [
      [cell.strip() for cell in line.strip("|").split("|")]
      for line in table.splitlines()
    ]
    if set(columns) <= set(head):
      yield [dict(zip(head, line, strict=True)) for line in lines]


def rows(page, *columns):
  """The rows of the only table that has these columns."""
  (found,) = tables(page, *columns)
  return found


def names_in(cell):
  """What stands in backquotes."""
  return re.findall(r"`(.*?)`", cell)


def peers_and_deployed(page):
  return {
    re.search(r"\[`?(\w+)", next(iter(row.values())))[1]: (
      row["peers"],
      row["deployed"],
    )
    for row in rows(page, "peers", "deployed")
  }


def test_the_tables_of_methods_say_which_peers_and_what_is_deployed():
  found = peers_and_deployed("README.md")
  assert peers_and_deployed("docs/methods/index.md") == found
  assert sorted(found) == methods.names()
  for name, (peers, deployed) in found.items():
    method = methods.make(name)
    kind = peers.split()[0]
    assert (None if kind == "either" else kind) == method.needs.kind, name
    place = {0: "first", -1: "last"}[method.leader]
    assert [w for w in ("first", "last") if w in deployed] == [place], name
    role = method.deployed_as
    for word in ("averaged", "leader"):
      assert (word in deployed) == (word in role), name
    if called := re.match(r"the (\w+)", deployed):
      assert called[1] == role, name


def subclasses(kind):
  return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_the_table_of_exit_codes_is_that_of_the_errors():
  ours = {
    kind
    for kind in subclasses(errors.OkdError)
    if kind.__module__.startswith("okd_jax.")
  }
  listed = [int(row["exit code"]) for row in rows("README.md", "exit code")]
  assert listed == sorted({0, 1, early.EXIT_CODE} | {k.exit_code for k in ours})


def names_of_row(cell):
  """Networks, where `resnet8`, `20` is short for `resnet8`, `resnet20`."""
  known, found = backbones.names(), []
  for name in names_in(cell):
    if name not in known:
      name = re.match(r"[a-z]+", found[-1])[0] + name
    found.append(name)
  return found


def test_the_table_of_networks_says_how_each_is_split_and_fed():
  listed = []
  for row in rows("docs/networks.md", "names", "default split, of stages"):
    names = names_of_row(row["names"])
    splits = re.findall(r"\d of \d", row["default split, of stages"])
    assert len(splits) in (1, len(names)), row
    listed += names
    splits = splits if len(splits) > 1 else splits * len(names)
    for name, split in zip(names, splits, strict=True):
      net = backbones.make(name, 10)
      assert split == f"{net.split} of {net.num_stages}", name
      remark = row["remarks"].replace("ImageNet", "224x224")
      if said := re.search(r"(\d+)x(\d+)", remark):
        assert said.groups() == (*map(str, net.image_shape[:2]),), name
  assert sorted(listed) == sorted(backbones.names())


def test_only_the_networks_that_the_page_names_become_narrower():
  (words,) = re.findall(
    r"This also works for the\nother networks called (.*?)\.$",
    text_of("docs/networks.md"),
    re.MULTILINE | re.DOTALL,
  )
  for name in backbones.names():
    try:
      backbones.make(f"{name}@4/5", 10)
      narrow = True
    except errors.ConfigError:
      narrow = False
    assert narrow == name.startswith((*names_in(words),)), name


def test_the_page_names_the_keys_of_checkpoints():
  (words,) = re.findall(
    r"The state dict is looked for under\s(.*?), also nested",
    text_of("docs/networks.md"),
    re.DOTALL,
  )
  assert names_in(words) == [*torch_archive._PLACES]


WORDS = {"a": 1, "ten": 10, "two": 2, "five": 5}
UNITS = {"s": 1, "second": 1, "minute": 60}


def seconds(before, after="", page="docs/scaling_out.md"):
  """The time that stands on a page between these words."""
  text = re.sub(r"\s+", " ", text_of(page))
  (found,) = re.findall(rf"{before} (\w+) (second|minute|s\b)s?{after}", text)
  count, unit = found
  return (int(count) if count.isdigit() else WORDS[count]) * UNITS[unit]


def test_the_page_says_how_long_processes_wait():
  assert seconds("says so after") == distributed._TELL_SECONDS
  given_up = seconds("and ends with exit code 75 after")
  assert given_up == distributed._GIVE_UP_SECONDS
  assert seconds("signals once", " that it is alive") == alive._BEAT_SECONDS
  assert seconds("or stops for") == alive._SILENT_SECONDS
  longest = alive._SILENT_SECONDS + 5 * alive._BEAT_SECONDS
  longest += alive._GRACE_SECONDS + alive._LEAVE_SECONDS
  assert longest <= seconds("with exit code 75 after at most")
  (signal,) = re.findall(
    r"`--signal=TERM@(\d+)`", text_of("docs/scaling_out.md")
  )
  assert int(signal) == seconds("to save its state", " before its time is over")


def default(function, name):
  return inspect.signature(function).parameters[name].default


def test_the_page_says_how_often_a_bucket_is_written_to(monkeypatch):
  renewed = seconds("and written again every")
  assert renewed == default(lease.Lease, "renewed_secs")
  dead = seconds("that finds it unchanged for")
  assert dead == default(lease.Lease, "dead_secs")
  metrics = seconds("are written as a whole every")
  assert metrics == default(growing.Uploads, "every_secs")
  uploads = mock.Mock()
  monkeypatch.setattr(growing, "Uploads", uploads)
  # A path in a bucket is one that is not of pathlib.
  events.Events(mock.MagicMock(), first_step=0).close()
  often = seconds("events for TensorBoard every")
  assert often == uploads.call_args.kwargs["every_secs"]


def test_the_page_names_the_folders_of_splits():
  listed = {
    row["for"].replace("training", "train"): names_in(
      row["folders, in small letters or capitals"]
    )
    for row in rows(
      "docs/data.md", "for", "folders, in small letters or capitals"
    )
  }
  assert {k: set(v) for k, v in listed.items()} == finder._NAMES
  (others,) = re.findall(
    r"Names such as (.*?) are recognised too", text_of("docs/data.md")
  )
  for name in names_in(others):
    assert finder.role_of(name), name
  for role, names in listed.items():
    for name in names:
      assert finder.role_of(name) == finder.role_of(name.upper()) == role


def updated(**settings):
  """The last of some updates of a kernel and a bias of two peers."""
  params = {"kernel": jnp.ones((2, 30, 20)), "bias": jnp.ones((2, 20))}
  made = optim.make(optim.Optim(**settings))
  state, rng = made.init(params), np.random.default_rng(0)
  for _ in range(3):  # Lion sees only signs, which have to change
    gradients = {k: 0.01 * rng.normal(size=v.shape) for k, v in params.items()}
    updates, state = made.update(gradients, state, params, learning_rate=0.1)
  return np.concatenate([np.ravel(update) for update in updates.values()])


def test_the_table_of_optimisers_names_the_keys_that_count():
  others = {"momentum": 0.5, "nesterov": False}
  others |= {"beta1": 0.5, "beta2": 0.3, "epsilon": 1e-3}
  keys = "keys besides `learning_rate` and `weight_decay`"
  listed = {}
  for row in rows("docs/training.md", keys):
    (name,) = names_in(row["name"])
    listed[name] = set(names_in(row[keys]))
  for found in listed.values():
    for like in found & set(listed):
      found |= listed[like]
      found.remove(like)
  assert set(listed) == set(optim.NAMES)
  for name, found in listed.items():
    plain = updated(name=name)
    counts = {
      key
      for key, value in others.items()
      if np.any(updated(**{"name": name, key: value}) != plain)
    }
    assert counts == found, name
  for key in ("beta1", "beta2", "epsilon"):
    _, names = idle._BELONGS[f"optim.{key}"]
    assert set(names) == {name for name in listed if key in listed[name]}


PARTS = {"half": 0.5, "three quarters": 0.75, "tenth": 0.1, "fifth": 0.2}


def usual_recipe():
  """What the page says of recipes that are not in its table."""
  text = re.sub(r"\s+", " ", text_of("docs/methods/index.md"))
  said = re.search(
    r"(\d+) epochs of SGD with Nesterov momentum ([\d.]+), batches of (\d+), a "
    r"learning rate of ([\d.]+) that drops to a (\w+) at (\w+) and "
    r"(three quarters) of the epochs, and weight decay of ([\de-]+)\.",
    text,
  )
  epochs, momentum, batch, rate, factor, *drops, decay = said.groups()
  return {
    "name": "sgd",
    "nesterov": True,
    "epochs": int(epochs),
    "momentum": float(momentum),
    "batch_size": int(batch),
    "learning_rate": float(rate),
    "factor": PARTS[factor],
    "drops": tuple(PARTS[drop] for drop in drops),
    "weight_decay": float(decay),
    "schedule": "multistep",
  }


def changed(recipe, words):
  """The recipe with the differences of a cell; every word of it counts."""
  recipe = dict(recipe)

  def take(pattern):
    nonlocal words
    found = re.search(pattern, words)
    words = re.sub(pattern, "", words)
    return found

  if found := take(r"(\d+) epochs"):
    recipe["epochs"] = int(found[1])
  if found := take(r"weight decay ([\de-]+)"):
    recipe["weight_decay"] = float(found[1])
  if found := take(r"batches of (\d+)"):
    recipe["batch_size"] = int(found[1])
  if found := take(r"a rate of ([\d.]+)"):
    recipe["learning_rate"] = float(found[1])
  if take(r"(the rate|that) falls by a cosine"):
    recipe["schedule"] = "cosine"
  if take(r"no Nesterov momentum"):
    recipe["nesterov"] = False
  pattern = r"a (\w+) of the rate at epochs ([\d, and]+\d)(, counted from 1)?"
  if found := take(pattern):
    recipe["factor"] = PARTS[found[1]]
    first = 1 if found[3] else 0
    recipe["drops"] = tuple(
      (int(epoch) - first) / recipe["epochs"]
      for epoch in re.findall(r"\d+", found[2])
    )
  assert not words.strip(" ,"), f"not understood: {words}"
  return recipe


def trained(config):
  keys = "name nesterov momentum learning_rate factor drops weight_decay"
  found = {key: getattr(config.optim, key) for key in keys.split()}
  found |= {"epochs": config.epochs, "batch_size": config.batch_size}
  return found | {"schedule": config.schedule.name}


def test_the_page_says_how_recipes_for_cifar_100_differ():
  usual, differ = usual_recipe(), {}
  more = re.compile(r" \((\d+) with three networks\)")
  for row in rows("docs/methods/index.md", "recipe", "what differs"):
    for name in row["recipe"].split(", "):
      differ[name] = row["what differs"]
  for name in toys.OF_CLASSES:
    words = differ.pop(name, "")
    recipe = importlib.import_module(f"configs.{name}_c100")
    cases = {"": more.sub("", words)}
    if more.search(words):
      cases["1t2s"] = re.sub(
        r"\d+ epochs \((\d+) with.*?\)", r"\1 epochs", words
      )
    for variant, said in cases.items():
      config = freeze.freeze(recipe.get_config(variant))
      assert trained(config) == changed(usual, said), (name, variant)
  assert not differ


def test_the_matrix_has_every_method_and_kind():
  shown = list(tables("docs/matrix.md", "method", "kind"))
  assert len(shown) == 2
  for table in shown:
    cells = {
      (row.pop("method"), row.pop("kind")): set(row.values()) for row in table
    }
    assert cells.keys() == {
      (name, kind)
      for name in toys.OF_CLASSES
      for kind in ("replicas", "branches")
    }
    for (name, kind), found in cells.items():
      only = methods.make(name).needs.kind
      assert ("-" in found) == (only not in (None, kind)), (name, kind)


def test_the_page_and_the_docstring_list_the_losses_of_whole_batches():
  found = []
  for text in (losses.__doc__, text_of("docs/losses.md")):
    (words,) = re.findall(
      r"(?:treat the batch|use the batch) as a whole(.*?\"batch\")",
      text,
      re.DOTALL,
    )
    found.append(re.findall(r"`(\w+)`", words))
  assert found[0] == found[1]
  assert set(found[0]) <= set(losses.__all__)


def test_the_first_table_is_that_of_the_results():
  """Each difference, its interval and its seeds, where the head links to."""
  text = text_of("docs/results.md")
  sections = {
    re.sub(r"[^\w -]", "", head).lower().replace(" ", "-"): body
    for head, body in re.findall(
      r"^## (.*)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE
    )
  }
  shown = rows(
    "README.md",
    "training",
    "[digits, 200 images](docs/results.md#few-digits-where-groups-help)",
  )
  alone, *others = shown
  for head in list(alone)[1:]:
    section = sections[re.search(r"#([\w-]+)\)", head)[1]]
    assert f" {alone[head]} |" in section, head
    for row in others:
      if not row[head]:
        continue
      name = names_in(row["training"])[0]
      bold, difference, mean, half, count = re.fullmatch(
        r"(\**)(([+-][\d.]+) ± ([\d.]+))\1 \((\d+)\)", row[head]
      ).groups()
      assert bool(bold) == (abs(float(mean)) > float(half)), row
      lines = re.findall(rf"^\| `?{name}`? \|.*", section, re.MULTILINE)
      assert any(f"| {difference} " in line for line in lines), (name, head)
      assert count in {
        str(int(last) - int(first) + 1 if word == "to" else int(last))
        for line in lines
        for first, word, last in re.findall(r"\| (\d+) (of|to) (\d+) \|", line)
      }, (name, head)
