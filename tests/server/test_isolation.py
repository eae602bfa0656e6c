"""The server needs neither stip_keys, nor a client, nor a key file, nor a tokenizer library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

import stip
import stip_model
import stip_server
from stip_client import Client
from tests.support.models.oracle import Oracle, assert_equal_logits
from tests.support.models.random_checkpoint import RandomCheckpoint
from tests.support.waiting import PATIENCE

# What the parties may import besides the standard library. grpc imports its add-ons and tools if
# they are installed; cython_runtime is no package but its extension module makes it.
GRPC = {
    "cython_runtime",
    "google",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "grpc_status",
    "grpc_tools",
}
SERVER = GRPC | {
    *("stip", "stip_model", "stip_server"),
    *("ml_dtypes", "mlx", "numpy", "prometheus_client", "psutil"),
    "typing_extensions",
}
CLIENT = GRPC | {
    *("stip", "stip_client", "stip_keys", "stip_model"),
    *("jinja2", "markupsafe", "ml_dtypes", "numpy", "tokenizers", "typing_extensions"),
}
OURS = re.compile(r"stip(_client)?\b.*|stip_keys(\.masks\b.*)?|stip_model(\.(bundle|errors)\b.*)?")

# Runs the server without the site module, so that no .pth file brings the checkout back, and with
# an import hook that refuses every package that a server does not need.
BOOTSTRAP = """
import sys
sys.path[:0] = {paths!r}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in {allowed!r} and package not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
from stip_server.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_server_without_stip_keys_and_without_any_key_file_serves(
    tmp_path: Path, tiny_bundles: Path, tiny_checkpoint: RandomCheckpoint
) -> None:
    packages, bundle = tmp_path / "packages", tmp_path / "home" / "server"
    packages.mkdir()
    for module in (stip, stip_model, stip_server):
        source = Path(str(module.__file__)).parent
        shutil.copytree(source, packages / source.name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(tiny_bundles / "server", bundle)
    assert not list(tmp_path.rglob("*.key"))
    assert not list(tmp_path.rglob("stip_keys"))

    script = BOOTSTRAP.format(
        paths=[str(packages), sysconfig.get_path("purelib")], allowed=sorted(SERVER)
    )
    command = [sys.executable, "-I", "-S", "-c", script]
    process = subprocess.Popen(
        [*command, "--model", str(bundle), "--port", "0", "--cpu"],
        cwd=bundle,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.communicate()[1]
        address = line.removeprefix("listening on ").strip()
        prompt = [3, 1, 4, 1, 5, 9, 2, 6]
        with Client(address, tiny_bundles / "client") as client, client.session() as session:
            found = session.forward(prompt)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    checkpoint = tiny_checkpoint.write(tmp_path / "checkpoint")
    assert_equal_logits(found, Oracle(checkpoint).logits(prompt))


def test_importing_the_client_brings_only_what_a_client_needs() -> None:
    """No MLX, no server, of stip_keys only the masks and of stip_model only the bundle."""
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import stip_client.cli.main\n"
        "from stip_client import AsyncClient, Client\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    brought = {name for name in done.stdout.split() if not name.startswith("_")}
    others = {name for name in brought if not name.startswith("stip")}
    packages = {name.partition(".")[0] for name in others} - sys.stdlib_module_names
    assert packages <= CLIENT
    assert [name for name in sorted(brought - others) if not OURS.fullmatch(name)] == []


def test_the_client_reads_only_the_rows_it_needs(tmp_path: Path) -> None:
    """A client of a large vocabulary must not load its table: resident memory stays small."""
    rows, width = 120_000, 512
    program = f"""
import numpy as np, sys
from pathlib import Path
from stip_client.bundle.embeddings import EmbeddingTable

def resident():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])

table = EmbeddingTable(Path(sys.argv[1]))
before = resident()
found = table.rows([0, 7, {rows - 1}])
assert found.shape == (3, {width}) and found[1, 0] == 7.0, found
print(resident() - before)
"""
    from safetensors.numpy import save_file

    table = np.repeat((np.arange(rows) % 1000).astype(np.float16)[:, None], width, axis=1)
    save_file({"model.embed_tokens.weight": table}, tmp_path / "embeddings.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "embeddings.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 20_000  # KiB, of a table of 120,000
