"""A client of kascade-server that knows the protos of one source tree, and nothing else of it."""

import contextlib
import pathlib
import subprocess
import threading
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

CALL_SECONDS = 600
START_SECONDS = 120
# Steps are cut by tokens alone, never by a forecast of their time: the rows that are computed
# together decide the order of some sums.
FLAGS = ("--threads", "2", "--max-step-ms", "0", "--kv-memory", "96MiB", "--drain-seconds", "1",
         "--listen", "127.0.0.1:0", "--metrics-listen", "")


class Refused(Exception):
    """The server says that this processor cannot run what was asked for."""


class Protos:
    """Messages and calls by their full names, in whatever files they are declared."""

    def __init__(self, folder, scratch):
        out = pathlib.Path(scratch) / "protos.binpb"
        files = sorted(map(str, pathlib.Path(folder).rglob("*.proto")))
        subprocess.run(["protoc", f"-I{folder}", "--include_imports", f"--descriptor_set_out={out}",
                        *files], check=True)
        pool = descriptor_pool.DescriptorPool()
        self.services = {}
        for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
            pool.Add(file)
            for service in file.service:
                self.services[service.name] = f"{file.package}.{service.name}"
        self.pool, self.factory = pool, message_factory.MessageFactory(pool)

    def method(self, name):
        """Of "Service.Method": path, request class, response class, whether it streams."""
        service, method = name.split(".")
        found = self.pool.FindServiceByName(self.services[service]).methods_by_name[method]
        streams = method in ("Generate", "Score", "Calibrate", "WatchCalibration")
        return (f"/{self.services[service]}/{method}", self.factory.GetPrototype(found.input_type),
                self.factory.GetPrototype(found.output_type), streams)


class Stream:
    """A call that sends many messages. They are collected as they come, with their times."""

    def __init__(self, call):
        self.messages, self.times, self.error = [], [], None
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._collect, args=(call,))
        self._thread.start()

    def _collect(self, call):
        try:
            for message in call:
                with self._arrived:
                    self.messages.append(message)
                    self.times.append(time.monotonic())
                    self._arrived.notify_all()
        except grpc.RpcError as error:
            self.error = error
        with self._arrived:
            self._arrived.notify_all()

    def wait_started(self):
        """Until the first message, which the server sends right before it queues the request."""
        with self._arrived:
            self._arrived.wait_for(lambda: self.messages or self.error, CALL_SECONDS)

    def result(self):
        self._thread.join()
        if self.error is not None:
            raise self.error
        return self.messages


class Server:
    def __init__(self, protos, channel):
        self.protos, self.channel = protos, channel

    def start(self, method, request):
        """A call, not waited for. The request is a dictionary, as in protobuf's JSON."""
        path, asks, answers, streams = self.protos.method(method)
        kind = self.channel.unary_stream if streams else self.channel.unary_unary
        call = kind(path, request_serializer=asks.SerializeToString,
                    response_deserializer=answers.FromString)
        message = json_format.ParseDict(request, asks())
        if not streams:
            return call(message, timeout=CALL_SECONDS)
        return Stream(call(message, timeout=CALL_SECONDS))

    def call(self, method, request):
        """The response, or the list of responses of a stream."""
        started = self.start(method, request)
        return started.result() if isinstance(started, Stream) else started


def wait_for_port(process, port_file, log):
    deadline = time.monotonic() + START_SECONDS
    while not port_file.exists():
        if process.poll() is not None:
            text = log.read_text()
            if "no bf16 instructions" in text:
                raise Refused(text.strip())
            raise RuntimeError("the server did not start: " + text)
        if time.monotonic() > deadline:
            raise RuntimeError("the server did not start in time: " + log.read_text())
        time.sleep(0.02)
    return port_file.read_text().split()[0]


@contextlib.contextmanager
def serving(binary, protos, folder, *flags):
    """A Server on a free port; `folder` is empty."""
    port_file, log = folder / "ports", folder / "server.log"
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen([binary, *FLAGS, "--port-file", str(port_file), *flags],
                                   stdout=out, stderr=subprocess.STDOUT)
    try:
        port = wait_for_port(process, port_file, log)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Server(protos, channel)
    finally:
        process.terminate()
        process.wait(timeout=60)
