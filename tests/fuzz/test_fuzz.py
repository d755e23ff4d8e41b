"""No bytes get anything out of the parsers but pictures, values and the errors that are a client's answer."""

import subprocess
import sys
from pathlib import Path

from tests.fuzz.__main__ import CORPUS
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 1.5  # for each target; `make fuzz` takes a minute
ENVIRONMENT = {"PYTHONPATH": str(ROOT)}
# A target that finds fault with a text that it should know.
BROKEN = (
    "import sys\n"
    "from tests.fuzz import targets\n"
    "def broken(data):\n"
    "    assert len(data) != 10\n"
    "targets.TARGETS['codings'] = broken\n"
    "from tests.fuzz.__main__ import by_chance\n"
    "by_chance(['codings'], 20.0, 1)\n"
)


def test_nothing_but_a_clients_error_escapes_any_target(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", f"--seconds={SECONDS}", "--plain"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("nothing found") == len(TARGETS)


def test_what_escapes_is_found_and_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    (kept,) = tmp_path.glob("crash-codings-*")
    assert len(kept.read_bytes()) == 10


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert 0 < sum(sizes) < 200_000
