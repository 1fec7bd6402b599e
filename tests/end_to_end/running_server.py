"""A server with the demo model, as a process of its own."""

import os
import pathlib
import subprocess
import time

from soak_readings import Metrics, process

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"


class RunningServer:
    """Serves on free ports until stop(); its log is a file in the folder."""

    def __init__(self, program, folder, *options, name="server", kv_memory="64MiB",
                 environment=None, preexec=None):
        self.log = pathlib.Path(folder) / f"{name}.log"
        ports = pathlib.Path(folder) / f"{name}.ports"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [program, "--model", MODEL, "--listen", "127.0.0.1:0", "--metrics-listen",
                 "127.0.0.1:0", "--kv-memory", kv_memory, "--port-file", ports, *map(str, options)],
                stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})},
                preexec_fn=preexec)
        deadline = time.monotonic() + 120
        while not ports.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(self.log.read_text())
            time.sleep(0.02)
        self.port, self.metrics_port = map(int, ports.read_text().split())

    def metrics(self):
        return Metrics(self.metrics_port)

    def reading(self):
        return process(self.process.pid)

    def stop(self):
        """The exit code after SIGTERM."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
