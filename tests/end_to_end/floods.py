#!/usr/bin/env python3
"""Floods a server over one HTTP/2 connection and measures how long other clients' health checks take.

Usage: floods.py KASCADE_SERVER [--connections N] [FLOOD…]. With N connections at once, each of which
is opened again when the server ends it. Prints for each flood the longest and the median health check
while it runs, the memory that the server has gained, and how long the server let it go on. Fails if a
check takes more than LIMIT seconds or gets no answer. Takes half a minute.
"""

import argparse
import contextlib
import multiprocessing
import pathlib
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import http2
from http2 import (CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS,
                   WINDOW_UPDATE, frame)

CHECK = "/grpc.health.v1.Health/Check"
MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"
SECONDS = 3  # of each flood
LIMIT = 1
BATCH = 1000  # frames that are sent at once


def streams(first, make):
    return b"".join(make(stream) for stream in range(first, first + 2 * BATCH, 2))


def repeated(data):
    """Opens nothing, and sends the same frames again and again."""
    return lambda _: data * BATCH


def rapid_reset(path, with_message=False):
    block = http2.header_block(path)
    return lambda number: streams(2 * BATCH * number + 1, lambda stream: (
        frame(HEADERS, block, END_HEADERS, stream) +
        (frame(DATA, http2.message(), END_STREAM, stream) if with_message else b"") +
        frame(RST_STREAM, b"\0\0\0\x08", 0, stream)))


def on_open_stream(data):
    opening = frame(HEADERS, http2.header_block(CHECK), END_HEADERS, 1)
    return lambda number: (opening if number == 0 else b"") + data * BATCH


def continuation(data):
    opening = frame(HEADERS, http2.header_block(CHECK), 0, 1)
    return lambda number: (opening if number == 0 else b"") + data * BATCH


def fields(block):
    """CONTINUATION frames of 16 KiB full of the same header field, of a call whose fields never end."""
    opening = frame(HEADERS, http2.header_block(CHECK) + b"\x40\1x\1y", 0, 1)  # enters the table
    data = frame(CONTINUATION, block * (16384 // len(block)), 0, 1)
    return lambda number: (opening if number == 0 else b"") + data * 4


def open_streams(path):
    block = http2.header_block(path)
    return lambda number: streams(2 * BATCH * number + 1, lambda stream: frame(HEADERS, block, END_HEADERS,
                                                                              stream))


# A literal header field whose value says that it has 2 GiB.
ENDLESS_VALUE = b"\0\1x\x7f" + bytes([0x80, 0xff, 0xff, 0xff, 0x07])
FLOODS = {
    "ping": repeated(frame(PING, bytes(8))),
    "ping answers": repeated(frame(PING, bytes(8), http2.ACK)),
    "settings": repeated(frame(SETTINGS)),
    "window updates": repeated(frame(WINDOW_UPDATE, b"\0\0\0\1")),
    "empty data": on_open_stream(frame(DATA, b"", 0, 1)),
    "rapid reset": rapid_reset("/kascade.v1.InferenceService/Generate"),
    "rapid reset of calls": rapid_reset(CHECK, with_message=True),
    "rapid reset of unknown methods": rapid_reset("/a/b"),
    "open streams": open_streams("/kascade.v1.InferenceService/Generate"),
    "small continuations": continuation(frame(CONTINUATION, b"\0\1x\1y", 0, 1)),
    "many header fields": fields(b"\0\1x\1y"),
    "header fields by number": fields(b"\xbe"),
    "an endless header": lambda number: (
        frame(HEADERS, http2.header_block(CHECK) + ENDLESS_VALUE, 0, 1) if number == 0 else b"") +
        frame(CONTINUATION, bytes(16384), 0, 1) * 50,
}


def drain(client):
    with contextlib.suppress(OSError):
        while client.recv(1 << 20):
            pass


def flood(port, name, result, seconds=SECONDS):
    """Sends the flood for so long, or until the server ends it; tells its bytes and seconds."""
    sent, begin = 0, time.monotonic()
    with contextlib.suppress(OSError):
        client = http2.connect(port, timeout=seconds)
        threading.Thread(target=drain, args=(client,), daemon=True).start()
        number = 0
        while time.monotonic() < begin + seconds:
            data = FLOODS[name](number)
            client.sendall(data)
            sent += len(data)
            number += 1
        client.shutdown(socket.SHUT_RDWR)
    result.put((sent, time.monotonic() - begin))


def flood_again(port, name, result):
    """flood() again and again for SECONDS."""
    sent, begin = 0, time.monotonic()
    while time.monotonic() < begin + SECONDS:
        flood(port, name, once := queue.SimpleQueue())
        sent += once.get()[0]
    result.put((sent, time.monotonic() - begin))


def resident(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0


def start(server, folder):
    ports = pathlib.Path(folder) / "ports"
    process = subprocess.Popen(
        [server, "--model", MODEL, "--kv-memory", "16MiB", "--threads", "1", "--listen", "127.0.0.1:0",
         "--metrics-listen", "", "--port-file", ports], stderr=subprocess.DEVNULL)
    while not ports.exists():
        if process.poll() is not None:
            sys.exit("the server did not start")
        time.sleep(0.02)
    return process, int(ports.read_text().split()[0])


def measure(server, name, connections):
    """Prints a line; whether all checks were answered in time."""
    with tempfile.TemporaryDirectory() as folder:
        process, port = start(server, folder)
        try:
            before, peak = resident(process), 0
            result = multiprocessing.Queue()
            flooders = [multiprocessing.Process(target=flood if connections == 1 else flood_again,
                                                args=(port, name, result))
                        for _ in range(connections)]
            for flooder in flooders:
                flooder.start()
            checks, end = [], time.monotonic() + SECONDS + 2
            while time.monotonic() < end:
                status, seconds = http2.health(port, timeout=30)
                checks.append((seconds, status))
                peak = max(peak, resident(process))
                time.sleep(0.02)
            ends = [result.get(timeout=30) for _ in flooders]
            for flooder in flooders:
                flooder.join()
        finally:
            process.kill()
            process.wait()
    longest, answered = max(checks)[0], all(status == http2.SERVING for _, status in checks)
    print(f"{name:32} longest check {longest:6.3f} s, median {statistics.median(seconds for seconds, _ in checks):6.3f} s, "
          f"{'all answered' if answered else 'NOT ALL ANSWERED'}, +{peak - before:5.0f} MiB, "
          f"{sum(sent for sent, _ in ends) / 1e6:7.1f} MB in {max(ends, key=lambda end: end[1])[1]:4.1f} s",
          flush=True)
    return answered and longest <= LIMIT


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("floods", nargs="*", metavar="FLOOD", help=", ".join(FLOODS))
    parser.add_argument("--connections", type=int, default=1)
    arguments = parser.parse_intermixed_args()
    names = arguments.floods or list(FLOODS)
    return 0 if all([measure(arguments.server, name, arguments.connections) for name in names]) else 1


if __name__ == "__main__":
    sys.exit(main())
