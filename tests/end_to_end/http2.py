"""As much of HTTP/2 as a test needs to misuse a gRPC server: frames from raw sockets, and one health check."""

import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
SERVING, NOT_SERVING = 1, 2


def frame(kind, payload=b"", flags=0, stream=0):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header_block(method_path):
    """The header fields of a gRPC call, without compression."""
    fields = ((":method", "POST"), (":scheme", "http"), (":path", method_path), (":authority", "test"),
              ("te", "trailers"), ("content-type", "application/grpc"))
    return b"".join(bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
                    for name, value in fields)


def message(payload=b""):
    """A gRPC message: not compressed, length, bytes."""
    return struct.pack(">BI", 0, len(payload)) + payload


def connect(port, timeout=10):
    """A connection on which the preface is sent."""
    client = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    client.sendall(PREFACE + frame(SETTINGS))
    return client


def frames_of(client):
    """Yields (kind, flags, payload) until the server closes or is silent for the socket's timeout."""
    data = b""
    while True:
        try:
            part = client.recv(65536)
        except (TimeoutError, ConnectionError):
            return
        if not part:
            return
        data += part
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            end = 9 + int.from_bytes(data[:3], "big")
            yield data[3], data[4], data[9:end]
            data = data[end:]


def health_call(service="", stream=1, method="Check"):
    """The frames of a call of the health service."""
    request = bytes([10, len(service)]) + service.encode() if service else b""
    return (frame(HEADERS, header_block(f"/grpc.health.v1.Health/{method}"), END_HEADERS, stream) +
            frame(DATA, message(request), END_STREAM, stream))


def health(port, service="", timeout=10):
    """(status, seconds) of a check on a new connection; the status is None if no answer comes."""
    begin = time.monotonic()
    status = None
    try:
        with connect(port, timeout) as client:
            client.sendall(health_call(service))
            for kind, _, payload in frames_of(client):
                if kind == DATA and len(payload) == 7:
                    status = payload[6]
                    break
    except OSError:
        pass
    return status, time.monotonic() - begin
