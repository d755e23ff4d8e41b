"""The environment of every test: Serve's production data plane, as `make serve` has it, and a cache that begins empty.

Set here, because Ray reads it when it is first imported, and the processes that it starts inherit it.
"""

import atexit
import os
import shutil
import tempfile

from scripts.ray_env import production_profile
from tests.awaiting import free_port

os.environ.update(production_profile(on_one_machine=True))
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_SERVE_HAPROXY_METRICS_PORT"] = str(free_port())
os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] = str(free_port())

# One for the whole session, so that the engines of the bundled model are measured once.
os.environ["APERTURE_CACHE"] = tempfile.mkdtemp(prefix="aperture-tests-")
atexit.register(shutil.rmtree, os.environ["APERTURE_CACHE"], ignore_errors=True)
