"""The page about runs and comparisons, read as a browser reads it."""

from html.parser import HTMLParser
import re
import shutil
import subprocess

import numpy as np
from PIL import Image
import pytest

from cells import pretend
from configs import compare_digits
from okd_jax import __main__, compare
from okd_jax.errors import ConfigError
from okd_jax.results import grid
from okd_jax.runs import records
from okd_jax.settings.freeze import freeze_comparison

VOID = {"meta"}


class Page(HTMLParser):
  """Collects the text, and checks that elements are nested."""

  def __init__(self, text):
    super().__init__()
    self.open, self.ids, self.links, self.text = [], [], [], ""
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.handle_startendtag(tag, attrs)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    for name, value in attrs:
      if name == "id":
        self.ids.append(value)
      elif name.split(":")[-1] in ("src", "href"):
        self.links.append(value)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
  """A page about a run and an unfinished comparison."""
  workdir = tmp_path_factory.mktemp("reported") / "a<b>c"
  config = freeze_comparison(compare_digits.get_config("smoke"))
  compare._remember(config, workdir)
  for cell in grid.cells(config, workdir)[:-1]:
    pretend(cell.config, cell.workdir, 0.9 + cell.seed / 100, 0.8)
  __main__.main(["report", str(workdir), str(trained)])
  return workdir / "report.html"


def test_the_page_loads_nothing(page):
  text = page.read_text()
  read = Page(text)
  assert len(set(read.ids)) == len(read.ids)
  assert read.links and all(link.startswith("#") for link in read.links)
  assert {link[1:] for link in read.links} <= set(read.ids)
  assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(read.ids)
  assert not re.search(r"url\((?!#)|@import|<script", text)
  addresses = set(re.findall(r'(\S*?)="https?:', text))
  assert addresses <= {"xmlns", "xmlns:xlink"}


def test_the_page_tells_everything(page, trained):
  read = Page(page.read_text())
  for words in (
    "5 of 6 runs done",
    "resnet8 on digits, 2 epochs: last epoch",
    "90.50 ± 0.71",
    "beside published figures",
    "a<b>c",
    "okddip, 3 replicas of resnet8 on digits",
    "calibration error",
  ):
    assert words in read.text, words
  (record,) = [r for r in records.read_metrics(trained) if r["kind"] == "eval"]
  accuracy = 100 * record["test/ensemble/accuracy"]
  assert f"{accuracy:.2f} %" in read.text
  assert "Not finished" not in read.text


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
  with pytest.raises(SystemExit) as left:
    __main__.main(["report", str(tmp_path)])
  assert left.value.code == ConfigError.exit_code
  assert "is not the work directory of a run" in capsys.readouterr().err
  assert not (tmp_path / "report.html").exists()


@pytest.mark.long
@pytest.mark.skipif(
  not shutil.which("chromium"), reason="Chromium is not installed"
)
def test_a_browser_shows_the_page(page, tmp_path):
  browser = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    f"--user-data-dir={tmp_path / 'profile'}",
    "--host-resolver-rules=MAP * ~NOTFOUND",
  ]
  picture = tmp_path / "page.png"
  for asked in (
    ["--window-size=1200,4000", f"--screenshot={picture}"],
    ["--dump-dom"],
  ):
    done = subprocess.run(
      [*browser, *asked, page.as_uri()],
      capture_output=True,
      text=True,
      timeout=120,
    )
    assert done.returncode == 0, done.stderr
  assert done.stdout.count("<svg") == 8 and "90.50 ± 0.71" in done.stdout
  pixels = np.asarray(Image.open(picture).convert("RGB"))
  assert pixels.shape == (4000, 1200, 3)
  # Bars in the first half, curves of the run below.
  for part, color in ((0, "#009E73"), (1, "#CC79A7")):
    value = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    found = np.all(pixels[2000 * part : 2000 * (part + 1)] == value, -1)
    assert found.sum() > 50, color
