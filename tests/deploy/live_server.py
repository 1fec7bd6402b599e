"""Starts servers and other daemons on loopback for the deployment tests, and ends them again."""

import pathlib
import signal
import subprocess
import tempfile
import time
import urllib.request

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"


def wait(condition, what, seconds=60):
    """The first true value of the condition."""
    end = time.monotonic() + seconds
    while True:
        try:
            if value := condition():
                return value
        except OSError:
            pass  # not listening yet
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def text_of(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return reply.read().decode()


class Daemon:
    """A process that ends with the object; its output is in the file `log` of its folder."""

    def __init__(self, *command):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kascade-deploy-test-"))
        with open(self.folder / "log", "w") as log:
            self.process = subprocess.Popen([str(part).replace("FOLDER", str(self.folder)) for part in command],
                                            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self):
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


class Server(Daemon):
    """kascade-server on the bundled model. Port 0 takes a free one."""

    def __init__(self, program, port=0, *options):
        super().__init__(program, "--model", MODEL, "--listen", f"127.0.0.1:{port}", "--metrics-listen",
                         "127.0.0.1:0", "--port-file", "FOLDER/ports", "--threads", "1", "--drain-seconds", "20",
                         *options)
        ports = self.folder / "ports"
        wait(ports.exists, f"a server; its log is {self.folder}/log")
        self.port, self.metrics_port = map(int, ports.read_text().split())

    def calls(self, rpc):
        """How many calls of this method ended here with OK."""
        for line in text_of(f"http://127.0.0.1:{self.metrics_port}/metrics").splitlines():
            if line.startswith("kascade_rpc_requests_total") and f'rpc="{rpc}"' in line and 'code="OK"' in line:
                return int(float(line.rsplit(" ", 1)[1]))
        return 0
