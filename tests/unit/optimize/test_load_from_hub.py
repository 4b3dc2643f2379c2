"""The real huggingface_hub against a loopback server that speaks its protocol for one repository.

It asks GET /api/models/<id>/revision/<commit> for the list of files, then HEAD and GET
/<id>/resolve/<commit>/<file>, whose ETag and X-Repo-Commit name the content.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from models.files import sha256_file

ROOT = Path(__file__).resolve().parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# In a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported.
FETCH = """
import sys
from pathlib import Path
from optimize.errors import SourceError
from optimize.load import fetch_source
from optimize.recipe import read_recipe

try:
    fetch_source(read_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
except SourceError as error:
    sys.exit(f"refused: {error}")
"""


def hub_handler(model: Path) -> type[BaseHTTPRequestHandler]:
    """Answers for the repository someone/tiny, which holds the model's files and a pickle."""
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    files["pytorch_model.bin"] = b"a pickle that nobody may ask for"
    siblings = [{"rfilename": name} for name in files]
    about = {"id": "someone/tiny", "sha": COMMIT, "siblings": siblings, "private": False}
    answers = {f"/someone/tiny/resolve/{COMMIT}/{name}": body for name, body in files.items()}
    answers[f"/api/models/someone/tiny/revision/{COMMIT}"] = json.dumps(about).encode()

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path.split("?")[0])
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{self.path.rsplit("/", 1)[-1]}"')
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    return Hub


@pytest.fixture
def hub(tiny_model: Path) -> Iterator[str]:
    """The URL of the hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub_handler(tiny_model))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(hub: str, repository: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Fetch a repository of the hub into `folder`/model."""
    (folder / "recipe.yaml").write_text(
        f"{{name: tiny, task: embed, variants: [fp32], evaluation: {{data: {{kind: folder, folder: data}}}}, "
        f"source: {{kind: hub, repository: {repository}, revision: '{COMMIT}', licence: MIT}}}}"
    )
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", FETCH, folder / "recipe.yaml", folder / "model"],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_commit_of_the_hub_becomes_a_described_copy_without_its_pickle(
    hub: str, tiny_model: Path, tmp_path: Path
):
    done = fetch(hub, "someone/tiny", tmp_path)
    assert done.returncode == 0, done.stderr
    described = json.loads((tmp_path / "model/source.json").read_text())
    assert described["reference"] == f"someone/tiny@{COMMIT}"
    assert described["weights_sha256"] == sha256_file(tiny_model / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "model" / name).read_bytes() == (tiny_model / name).read_bytes()
    assert not list(tmp_path.rglob("pytorch_model.bin"))


@pytest.mark.parametrize("repository", ["someone/unknown", "not/an/id"])
def test_an_unknown_repository_is_refused_with_what_to_check(
    hub: str, tmp_path: Path, repository: str
):
    done = fetch(hub, repository, tmp_path)
    assert f"refused: cannot download {repository}@{COMMIT}" in done.stderr
    assert "check the id, the commit, the network and HF_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr
