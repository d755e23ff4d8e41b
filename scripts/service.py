"""`serve run` as a child: started with a clean set of signals, drained before it is stopped."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from scripts.haproxy import drain

POLL_S = 0.2
STOP_TIMEOUT_S = 60.0


class Service:
    """The first SIGINT, SIGTERM or SIGHUP stops it: at once while it starts, and later when it has answered all that it
    has. The second one does not wait for that."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._signals = 0
        self._is_ready = False
        self._process: subprocess.Popen[bytes] | None = None
        # Under `nohup` the hang-up of the terminal is ignored, and stays so.
        hang_up = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        # Before the start: a child inherits an ignored SIGINT, as a shell's background jobs have it, but not a handled
        # one.
        for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
            signal.signal(number, self._on_signal)
        # Without an address Ray joins whatever cluster this machine had last: one that has not read configs/ray.env, or
        # one that has died, for which it would wait without a word.
        environment = {"RAY_ADDRESS": "local", **environment}
        # A session of its own, so that Ctrl-C reaches Serve once, from us, and not each of its processes as well.
        self._process = subprocess.Popen(command, env=environment, start_new_session=True)
        if self._signals:  # While it started.
            self._interrupt()

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    def wait(self, drain_s: float) -> int:
        """The status with which it ends, by itself or by a signal: then within `drain_s` for what is in flight, and the
        time that Serve takes to stop."""
        self._is_ready = True
        while self.process.poll() is None and not self._signals:
            time.sleep(POLL_S)
        if self.process.poll() is None:
            print("Stopping; first what is in flight is answered.", flush=True)
            if not drain(self.process.pid, drain_s):
                print(f"Not all of it was, within {drain_s:g} s.", file=sys.stderr)
            self._interrupt()
        return self.process.wait()

    def stop(self) -> None:
        """Without draining, as what never became ready has nothing to drain."""
        self._interrupt()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _on_signal(self, *_: object) -> None:
        self._signals += 1
        if self._signals > 1 or not self._is_ready:
            self._interrupt()

    def _interrupt(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
