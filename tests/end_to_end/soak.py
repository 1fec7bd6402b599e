#!/usr/bin/env python3
"""Leaves one server alone under a mixed load and tells whether it stays as it was.

Usage: soak.py SERVER [--minutes 60] [--seed 1] [--out FILE] [-- SERVER OPTIONS…]

Clients generate, score, tokenize, calibrate, change the active schedule, are refused, cancel at random
moments, let deadlines pass and vanish (soak_load.py). Meanwhile memory, threads, descriptors and metrics
are read every five seconds. At the end, with the load gone, these must hold, else the exit code is 1:

- memory grows by at most 1 MiB per hour, or by no more that can be told from that: the trend of the means
  of each minute after the warm-up (a quarter of the time, at most ten minutes), minus two standard
  errors, is at most that; asked for from 20 minutes on. The warm-up begins with texts that fill the KV
  cache, whose pages the system gives when they are used first;
- each call was answered, refused or abandoned by its client, and the server's metrics count the same;
- blocks of the KV cache and memory of requests are free, descriptors are what they were before the load,
  and threads no more than in the warm-up: gRPC starts its threads as it needs them.
"""

import argparse
import asyncio
import datetime
import json
import pathlib
import sys
import tempfile
import time

import soak_load
import soak_readings
import stubs
from running_server import RunningServer

MIB_PER_HOUR = 1
LEAST_MINUTES_FOR_TREND = 20
READING_SECONDS = 5


class Soak:
    def __init__(self, server, seed):
        self.server = server
        self.load = soak_load.Load(server.port, seed)
        self.begin = time.monotonic()
        self.times, self.readings = [], []

    async def read_often(self):
        while True:
            self.times.append(time.monotonic() - self.begin)
            self.readings.append(self.server.reading())
            await asyncio.sleep(READING_SECONDS)

    async def run(self, seconds):
        async def work():
            if seconds >= LEAST_MINUTES_FOR_TREND * 60:
                await self.load.fill_cache()
            await self.load.run(seconds)

        await self.run_work(work())

    async def run_work(self, work):
        """Reads the server before and after the work, which this awaits, and meanwhile."""
        loop = asyncio.get_running_loop()
        await self.load.connect()
        self.before = self.server.reading()
        self.metrics_before = await loop.run_in_executor(None, self.server.metrics)
        reader = asyncio.ensure_future(self.read_often())
        await work
        self.times.append(time.monotonic() - self.begin)
        self.readings.append(self.server.reading())
        reader.cancel()
        self.metrics_after = await self.idle_metrics()
        await self.load.close()
        self.after = await self.settled()

    async def idle_metrics(self):
        """The metrics once nothing is left to do; those of the last look after 60 seconds."""
        for _ in range(120):
            metrics = await asyncio.get_running_loop().run_in_executor(None, self.server.metrics)
            if metrics.is_idle():
                break
            await asyncio.sleep(0.5)
        return metrics

    async def settled(self):
        """The reading once threads and descriptors are back; that of the last look after 30 seconds."""
        for _ in range(60):
            reading = self.server.reading()
            if (reading.threads <= self.usual_threads() and
                    reading.descriptors <= self.before.descriptors):
                break
            await asyncio.sleep(0.5)
        return reading

    def warm_up(self):
        return min(600, self.times[-1] / 4)

    def usual_threads(self):
        """Most threads in the warm-up, for which two minutes are too short."""
        return max(reading.threads for at, reading in zip(self.times, self.readings)
                   if at <= max(self.warm_up(), 120))

    def memory_trend(self):
        """Of the memory after the warm-up, MiB per hour; None of a short run."""
        kept = [(at, reading.resident / 1024) for at, reading in zip(self.times, self.readings)
                if at >= self.warm_up()]
        times, values = soak_readings.means(*zip(*kept), span=60)
        if len(times) < 3:
            return None
        found = soak_readings.trend(times, values)
        return soak_readings.Trend(found.slope * 3600, found.standard_error * 3600)

    def faults(self):
        """What is not as it should be, in words."""
        account, found = self.load.account, []
        found += account.faults(self.metrics_before.calls(), self.metrics_after.calls())
        found += account.surprises[:10]
        if not self.metrics_after.is_idle():
            found.append("the server still has work")
        for name in "kascade_kv_blocks_used_ratio", "kascade_request_memory_bytes":
            if (value := self.metrics_after.value(name)) != 0:
                found.append(f"{name} is {value}")
        for name, usual in (("threads", self.usual_threads()),
                            ("descriptors", self.before.descriptors)):
            if (after := getattr(self.after, name)) > usual:
                found.append(f"{after} {name} are left, {usual} are usual")
        trend = self.memory_trend()
        long_enough = self.times[-1] >= LEAST_MINUTES_FOR_TREND * 60 * 0.99
        if trend and long_enough and trend.slope - 2 * trend.standard_error > MIB_PER_HOUR:
            found.append(f"memory grows by {trend.slope:.2f} ± {trend.standard_error:.2f} MiB per hour")
        return found

    def latencies(self):
        """The times to the first token in each tenth of the run: p50 and p99, seconds."""
        times, tenth = self.load.account.first_token, self.times[-1] / 10
        for part in range(10):
            values = [seconds for at, seconds in times
                      if part * tenth <= at - self.begin < (part + 1) * tenth]
            if values:
                yield [round(soak_readings.percentile(values, share), 4) for share in (0.5, 0.99)]

    def report(self):
        account, trend = self.load.account, self.memory_trend()
        every = max(1, len(self.times) // 60)
        return {
            "date": datetime.date.today().isoformat(),
            "seconds": round(self.times[-1]),
            "issued": dict(sorted(account.issued.items())),
            "answered": {f"{rpc} {code}": count
                         for (rpc, code), count in sorted(account.answered.items())},
            "abandoned": dict(sorted(account.abandoned.items())),
            "memory_mib_per_hour": trend and round(trend.slope, 3),
            "memory_mib_per_hour_standard_error": trend and round(trend.standard_error, 3),
            "memory_mib": {round(at): round(reading.resident / 1024, 2) for at, reading in
                           list(zip(self.times, self.readings))[::every]},
            "before": vars(self.before),
            "after": vars(self.after),
            "first_token_p50_p99_s": list(self.latencies()),
            "faults": self.faults(),
        }


def soak(program, seconds, seed, options=()):
    """The report of a run."""
    with tempfile.TemporaryDirectory(prefix="kascade-soak-") as name:
        folder = pathlib.Path(name)
        stubs.generate_stubs(folder)
        server = RunningServer(program, folder, "--max-queue", "8", "--log-level", "warn", *options,
                               kv_memory="24MiB")
        try:
            async def run():
                run.soak = Soak(server, seed)
                await run.soak.run(seconds)
            asyncio.run(run())
            report = run.soak.report()
        finally:
            code = server.stop()
        if code != 0:
            report["faults"].append(f"the server ended with code {code}")
        report["log"] = server.log.read_text().splitlines()[-20:]
        return report


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    own, options = sys.argv[1:], []
    if "--" in own:
        options = own[own.index("--") + 1:]
        own = own[:own.index("--")]
    arguments = parser.parse_args(own)
    report = soak(arguments.server, arguments.minutes * 60, arguments.seed, options)
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    sys.exit(1 if report["faults"] else 0)


if __name__ == "__main__":
    main()
