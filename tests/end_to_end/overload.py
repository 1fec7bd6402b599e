#!/usr/bin/env python3
"""Measures a server under more load than it can serve.

Usage: overload.py SERVER --model DIR [--seconds 60] [--loads 0.8 3 10] [--prompt-bytes 400]
       [--new-tokens 48] [--out FILE] [-- SERVER OPTIONS…]

First the capacity: requests that finish per second while the server always has enough of them. Then,
for each load, requests arrive at random moments, on average that multiple of the capacity, whether or
not earlier ones were answered. Prints and writes, for each load: the requests that were answered,
refused and failed, the time to the first token of the answered ones, and how fast refusals came.
"""

import argparse
import asyncio
import collections
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import stubs


def percentile(values, share):
    """The smallest value that is not exceeded by at least this share of the values; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


class Results:
    def __init__(self):
        self.started = 0
        self.first_token = []  # seconds, of the answered ones
        self.between_tokens = []  # seconds
        self.refused = []  # seconds until the refusal
        self.codes = collections.Counter()
        self.reasons = collections.Counter()

    def summary(self):
        shown = lambda value: None if value is None else round(value, 4)
        return {
            "requests": self.started,
            "answered": self.codes["OK"],
            "refused": len(self.refused),
            "codes": dict(self.codes),
            "first_token_p50_s": shown(percentile(self.first_token, 0.5)),
            "first_token_p99_s": shown(percentile(self.first_token, 0.99)),
            "between_tokens_p99_s": shown(percentile(self.between_tokens, 0.99)),
            "refusal_p99_s": shown(percentile(self.refused, 0.99)),
        }


class Load:
    """Requests of random prompts to one server."""

    def __init__(self, port, prompt_bytes, new_tokens):
        import grpc
        from kascade.v1 import generate_pb2, inference_service_pb2_grpc
        self.grpc, self.generate_pb2 = grpc, generate_pb2
        # Several connections, as of several clients.
        self.channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}",
                                                   options=[("grpc.use_local_subchannel_pool", 1)])
                         for _ in range(4)]
        self.calls = [inference_service_pb2_grpc.InferenceServiceStub(channel).Generate
                      for channel in self.channels]
        self.prompt_bytes, self.new_tokens = prompt_bytes, new_tokens
        self.random = random.Random(7)

    def request(self):
        words = "".join(self.random.choice("the cat sat on a mat and saw one bird ".split()) + " "
                        for _ in range(self.prompt_bytes // 4))
        request = self.generate_pb2.GenerateRequest(text=words[:self.prompt_bytes].rstrip())
        request.sampling.temperature = 0
        request.stopping.max_new_tokens = self.new_tokens
        request.stopping.ignore_eos = True
        return request

    async def one(self, results):
        results.started += 1
        begin = previous = time.monotonic()
        first = None
        try:
            async for message in self.random.choice(self.calls)(self.request()):
                now = time.monotonic()
                if not message.HasField("delta") or message.delta.token_count == 0:
                    continue
                if first is None:
                    first = now - begin
                else:
                    results.between_tokens.append((now - previous) / message.delta.token_count)
                previous = now
            results.codes["OK"] += 1
            results.first_token.append(first)
        except self.grpc.aio.AioRpcError as error:
            results.codes[error.code().name] += 1
            if error.code() == self.grpc.StatusCode.RESOURCE_EXHAUSTED:
                results.refused.append(time.monotonic() - begin)

    async def capacity(self, seconds, in_flight):
        """Requests per second with so many always in flight; the first third is not counted."""
        results = Results()
        begin = time.monotonic()
        counted = []

        async def worker():
            while time.monotonic() < begin + seconds:
                before = results.codes["OK"]
                await self.one(results)
                if results.codes["OK"] == before:
                    await asyncio.sleep(0.01)
                elif time.monotonic() > begin + seconds / 3:
                    counted.append(time.monotonic())

        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return len(counted) / (max(counted) - begin - seconds / 3)

    async def offer(self, per_second, seconds):
        results = Results()
        tasks = []
        end = time.monotonic() + seconds
        next_arrival = time.monotonic()
        while next_arrival < end:
            await asyncio.sleep(max(0, next_arrival - time.monotonic()))
            tasks.append(asyncio.create_task(self.one(results)))
            next_arrival += self.random.expovariate(per_second)
        await asyncio.gather(*tasks)
        return results


def resident_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


async def measure(arguments, port, pid):
    load = Load(port, arguments.prompt_bytes, arguments.new_tokens)
    capacity = await load.capacity(min(arguments.seconds, 20), in_flight=32)
    print(f"capacity {capacity:.2f} requests/s", flush=True)
    report = {"capacity_per_second": round(capacity, 3), "loads": {}}
    for multiple in arguments.loads:
        results = await load.offer(multiple * capacity, arguments.seconds)
        report["loads"][str(multiple)] = {**results.summary(), "server_mib": resident_mib(pid)}
        print(f"{multiple}x: {json.dumps(report['loads'][str(multiple)])}", flush=True)
    for channel in load.channels:
        await channel.close()
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.8, 3, 10])
    parser.add_argument("--prompt-bytes", type=int, default=400)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--out", type=pathlib.Path)
    own, options = sys.argv[1:], []
    if "--" in own:
        options = own[own.index("--") + 1:]
        own = own[:own.index("--")]
    arguments = parser.parse_args(own)
    with tempfile.TemporaryDirectory(prefix="kascade-overload-") as name:
        folder = pathlib.Path(name)
        stubs.generate_stubs(folder)
        server = subprocess.Popen(
            [arguments.server, "--model", arguments.model, "--listen", "127.0.0.1:0",
             "--metrics-listen", "", "--log-level", "warn", "--port-file", folder / "ports",
             *options])
        try:
            while not (folder / "ports").exists():
                if server.poll() is not None:
                    sys.exit("the server ended before it was ready")
                time.sleep(0.05)
            port = int((folder / "ports").read_text().split()[0])
            report = asyncio.run(measure(arguments, port, server.pid))
        finally:
            server.terminate()
            server.wait()
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
