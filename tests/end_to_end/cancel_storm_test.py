#!/usr/bin/env python3
"""Cancels calls over gRPC at every moment of their lives, and asks the server for everything back.

Usage: cancel_storm_test.py SERVER [unittest arguments]. KASCADE_STORM_REQUESTS: how many calls, 500
by default.
"""

import asyncio
import os
import sys
import tempfile
import time
import unittest

import http2
import soak
import stubs
from running_server import RunningServer

CALLS = int(os.environ.get("KASCADE_STORM_REQUESTS", "500"))
AT_ONCE = 64

server_path = None


class Storm:
    """Calls that are cancelled at once, after some messages or milliseconds, or once they have ended."""

    def __init__(self, load):
        self.load, self.random, self.grpc = load, load.random, load.grpc

    def any_request(self):
        load = self.load
        generation = load.generation.GenerateRequest(text=load.words(5, 300))
        generation.stopping.max_new_tokens = 64
        score = load.score.ScoreRequest(inputs=[{"text": load.words(100, 2000)} for _ in range(3)],
                                        response={"tokens": True})
        tokenize = load.tokenize.TokenizeRequest(texts=[load.words(100, 150_000)], details=True)
        calibrate = load.calibration.CalibrateRequest(texts=[load.words(16_000, 20_000)],
                                                      cancel_on_disconnect=True)
        return self.random.choices((("Generate", generation), ("Score", score), ("Tokenize", tokenize),
                                    ("Calibrate", calibrate)), weights=(10, 5, 4, 1))[0]

    async def one(self):
        rpc, request = self.any_request()
        account = self.load.account
        account.issued[rpc] += 1
        call = getattr(self.load.stub_for(rpc), rpc)(request)
        moment = self.random.choice(("at once", "soon", "after messages", "later", "after the end"))
        try:
            if moment == "soon":
                await asyncio.sleep(self.random.choice((0, 0.001, 0.005)))
            elif moment == "later":
                await asyncio.sleep(self.random.uniform(0, 0.3))
            elif moment == "after messages" and rpc != "Tokenize":
                for _ in range(self.random.randint(1, 3)):
                    if await call.read() is self.grpc.aio.EOF:
                        break
            elif moment == "after the end" and rpc != "Calibrate":
                await self.load.messages_of(rpc, call)
            call.cancel()
            code = await call.code()
        except self.grpc.aio.AioRpcError as error:
            code = error.code()
        if code == self.grpc.StatusCode.CANCELLED:
            account.abandoned[rpc] += 1
        else:
            account.answered[rpc, code.name] += 1

    async def run(self, calls):
        left = iter(range(calls))

        async def client():
            for _ in left:
                await self.one()

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))


class CancelStormTest(unittest.TestCase):
    def start(self):
        folder = tempfile.TemporaryDirectory(prefix="kascade-cancel-storm-test-")
        self.addCleanup(folder.cleanup)
        stubs.generate_stubs(folder.name)
        server = RunningServer(server_path, folder.name, "--threads", "1", "--log-level", "warn")
        self.addCleanup(server.stop)
        return server

    def test_a_call_that_is_cancelled_before_its_request_came_was_not_malformed(self):
        server = self.start()
        for method in "Generate", "Tokenize":
            header = http2.header_block(f"/kascade.v1.InferenceService/{method}")
            counted, deadline = {}, time.monotonic() + 60
            while not counted:  # gRPC drops some of the calls itself
                self.assertLess(time.monotonic(), deadline)
                with http2.connect(server.port) as client:
                    for stream in range(1, 40, 2):
                        client.sendall(http2.frame(http2.HEADERS, header, http2.END_HEADERS, stream) +
                                       http2.frame(http2.RST_STREAM, bytes([0, 0, 0, 8]), 0, stream))
                    self.assertEqual(http2.health(server.port)[0], http2.SERVING)
                counted = {code: count for (rpc, code), count in server.metrics().calls().items()
                           if rpc == method}
            self.assertEqual(set(counted), {"CANCELLED"})
        self.assertEqual(server.metrics().total("kascade_refusals_total"), 0)
        self.assertTrue(server.metrics().is_idle())

    def test_nothing_is_left_of_calls_that_were_cancelled(self):
        server = self.start()

        async def run():
            watched = soak.Soak(server, seed=5)
            await watched.run_work(Storm(watched.load).run(CALLS))
            return watched

        watched = asyncio.run(run())
        account = watched.load.account
        self.assertEqual(watched.faults(), [], (account.answered, account.abandoned))
        self.assertGreater(sum(account.abandoned.values()), CALLS / 2)
        known = {"OK", "RESOURCE_EXHAUSTED", "ABORTED", "FAILED_PRECONDITION"}
        self.assertLessEqual({code for _, code in account.answered}, known)


if __name__ == "__main__":
    server_path = sys.argv.pop(1)
    unittest.main()
