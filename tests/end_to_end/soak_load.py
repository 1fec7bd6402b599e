"""The mixed load of a soak: what clients do in a day, all at once, and an account of what became of it."""

import asyncio
import collections
import contextlib
import random
import socket
import struct
import time

import http2
from running_server import MODEL

CLIENTS_WITH_CONNECTIONS = 4
# What a server under load may say to a sound request.
SOUND = {"OK", "RESOURCE_EXHAUSTED"}


class Account:
    """What the clients know of their calls. A call is answered, or abandoned: its client cancelled it,
    set it a deadline that passed, or vanished. Only the server knows how an abandoned call ended, if it
    has seen it at all."""

    def __init__(self):
        self.issued = collections.Counter()  # by RPC
        self.answered = collections.Counter()  # by (RPC, code)
        self.abandoned = collections.Counter()  # by RPC
        self.surprises = []  # answers that the request does not explain
        self.first_token = []  # (when it came, seconds since the call)

    def faults(self, before, after):
        """What does not agree with the calls that the server has counted, {(RPC, code): calls}."""
        found = []
        seen = {key: count - before.get(key, 0) for key, count in after.items()}
        for (rpc, code), count in self.answered.items():
            if seen.get((rpc, code), 0) < count:
                found.append(f"{rpc} {code}: {count} answers came, the server counted "
                             f"{seen.get((rpc, code), 0)}")
        for rpc, issued in self.issued.items():
            answers = sum(count for (name, _), count in self.answered.items() if name == rpc)
            counted = sum(count for (name, _), count in seen.items() if name == rpc)
            if answers + self.abandoned[rpc] != issued:
                found.append(f"{rpc}: {issued} issued, but {answers} answered and "
                             f"{self.abandoned[rpc]} abandoned")
            if not answers <= counted <= issued:
                found.append(f"{rpc}: {issued} issued, {answers} answered, but the server counted {counted}")
        return found


class Load:
    def __init__(self, port, seed):
        import grpc
        from kascade.v1 import (attention_pb2, calibration_service_pb2, calibration_service_pb2_grpc,
                                generate_pb2, inference_service_pb2, inference_service_pb2_grpc,
                                priority_pb2, score_pb2, tokenize_pb2)
        self.grpc, self.port = grpc, port
        self.attention, self.calibration, self.generation = (attention_pb2, calibration_service_pb2,
                                                             generate_pb2)
        self.score, self.tokenize, self.priority, self.info = (score_pb2, tokenize_pb2, priority_pb2,
                                                               inference_service_pb2)
        self.random = random.Random(seed)
        self.account = Account()
        self.text = (MODEL / "calibration.txt").read_text() + (MODEL / "evaluation.txt").read_text()
        self.channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}",
                                                   options=[("grpc.use_local_subchannel_pool", 1)])
                         for _ in range(CLIENTS_WITH_CONNECTIONS)]
        self.inference_stubs = [inference_service_pb2_grpc.InferenceServiceStub(channel)
                                for channel in self.channels]
        self.calibration_stubs = [calibration_service_pb2_grpc.CalibrationServiceStub(channel)
                                  for channel in self.channels]
        self.schedules = []  # ids that were seen
        self.running = set()  # calls
        self.is_over = False

    # ---- One call ----

    async def call(self, rpc, request, allowed=SOUND, may_abandon=True):
        """Makes a call, or sometimes leaves it; the messages of a call that ended well."""
        self.account.issued[rpc] += 1
        chance = self.random.random() if may_abandon else 1
        timeout = self.random.expovariate(2) + 0.005 if chance < 0.05 else None
        call = getattr(self.stub_for(rpc), rpc)(request, timeout=timeout)
        self.running.add(call)
        cancel = None
        if 0.05 <= chance < 0.2:
            # Often at once, so that some are cancelled before the server has their request.
            delay = self.random.choice((0, 0.002, 0.02, self.random.expovariate(2)))
            cancel = asyncio.get_running_loop().call_later(delay, call.cancel)
        try:
            messages = await self.messages_of(rpc, call)
            self.account.answered[rpc, "OK"] += 1
            return messages
        except self.grpc.aio.AioRpcError as error:
            self.count_failure(rpc, error, allowed,
                               left=cancel is not None or timeout is not None or self.is_over)
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            self.account.abandoned[rpc] += 1
        finally:
            self.running.discard(call)
            if cancel:
                cancel.cancel()
        return []

    def count_failure(self, rpc, error, allowed, left):
        code = error.code().name
        if left and code in ("CANCELLED", "DEADLINE_EXCEEDED"):
            self.account.abandoned[rpc] += 1
            return
        self.account.answered[rpc, code] += 1
        if code not in allowed:
            self.account.surprises.append(f"{rpc}: {code}: {error.details()}")

    def stub_for(self, rpc):
        """The stub of one of the connections."""
        stubs = self.inference_stubs if hasattr(self.inference_stubs[0], rpc) else self.calibration_stubs
        return self.random.choice(stubs)

    async def messages_of(self, rpc, call):
        if not hasattr(call, "__aiter__"):
            return [await call]
        begin, messages = time.monotonic(), []
        async for message in call:
            if rpc == "Generate" and len(messages) == 1:
                self.account.first_token.append((time.monotonic(), time.monotonic() - begin))
            messages.append(message)
        return messages

    # ---- Requests ----

    def words(self, least, most):
        size = self.random.randint(least, most)
        begin = self.random.randrange(len(self.text) - size)
        return self.text[begin:begin + size]

    def any_attention(self):
        return self.attention.AttentionOptions(mode=self.random.choice((
            self.attention.ATTENTION_MODE_UNSPECIFIED, self.attention.ATTENTION_MODE_DENSE,
            self.attention.ATTENTION_MODE_SPARSE)))

    def comparison_with(self, schedule_id):
        options = self.attention.AttentionOptions(mode=self.attention.ATTENTION_MODE_COMPARE)
        options.second.schedule.schedule_id = schedule_id
        return options

    def any_priority(self):
        return self.random.choice((self.priority.PRIORITY_INTERACTIVE, self.priority.PRIORITY_BATCH))

    async def generate(self):
        request = self.generation.GenerateRequest(text=self.words(10, self.random.choice((200, 4000))),
                                                  attention=self.any_attention(),
                                                  priority=self.any_priority())
        request.stopping.max_new_tokens = self.random.choice((1, 8, 32, 128, 400))
        request.stopping.ignore_eos = self.random.random() < 0.5
        request.response.top_logprobs = self.random.choice((0, 0, 5, 20))
        request.response.logprobs = request.response.top_logprobs > 0
        if self.random.random() < 0.3:
            request.stopping.stop_strings.append(self.random.choice((" the", "\n", "zzzz")))
        # Sparse attention needs an active schedule.
        await self.call("Generate", request, SOUND | {"FAILED_PRECONDITION"})

    async def score_text(self):
        large = self.random.random() < 0.2
        request = self.score.ScoreRequest(attention=self.any_attention(), priority=self.any_priority())
        for _ in range(self.random.randint(1, 4)):
            request.inputs.add(text=self.words(2000, 20_000) if large else self.words(20, 1000))
        request.response.tokens = self.random.random() < 0.5
        request.response.top_logprobs = self.random.choice((0, 0, 5))
        if self.schedules and self.random.random() < 0.5:
            request.attention.CopyFrom(self.comparison_with(self.random.choice(self.schedules)))
        await self.call("Score", request, SOUND | {"FAILED_PRECONDITION", "NOT_FOUND"})

    async def tokenize_text(self):
        texts = [self.words(1, self.random.choice((100, 100_000))) for _ in range(2)]
        request = self.tokenize.TokenizeRequest(texts=texts, details=self.random.random() < 0.5)
        for reply in await self.call("Tokenize", request):
            ids = reply.results[0].token_ids
            await self.call("Detokenize", self.tokenize.DetokenizeRequest(token_ids=ids))

    async def be_refused(self):
        generation = self.generation.GenerateRequest
        rpc, request, code = self.random.choice((
            ("Generate", generation(text="x", sampling={"temperature": float("nan")}), "INVALID_ARGUMENT"),
            ("Generate", generation(text="x" * 200_000), "INVALID_ARGUMENT"),
            ("Generate", generation(token_ids={"ids": [1 << 30]}), "INVALID_ARGUMENT"),
            ("Score", self.score.ScoreRequest(), "INVALID_ARGUMENT"),
            ("Score", self.score.ScoreRequest(inputs=[{"text": "some text"}],
                                              attention=self.comparison_with("none")), "NOT_FOUND"),
            ("GetSchedule", self.calibration.GetScheduleRequest(schedule_id="none"), "NOT_FOUND"),
            ("ActivateSchedule", self.calibration.ActivateScheduleRequest(schedule_json="{"),
             "INVALID_ARGUMENT"),
            ("WatchCalibration", self.calibration.WatchCalibrationRequest(calibration_id="x"),
             "NOT_FOUND")))
        await self.call(rpc, request, {code}, may_abandon=False)
        await self.call("GetModelInfo", self.info.GetModelInfoRequest())

    async def calibrate(self):
        request = self.calibration.CalibrateRequest(
            texts=[self.words(6000, 12_000)], held_out_texts=[self.words(8000, 12_000)],
            cancel_on_disconnect=self.random.random() < 0.5, activate=self.random.random() < 0.5,
            ratio=self.random.choice((0.1, 0.3)))
        # Short texts may show that the model is hardly better than guessing, or allow no schedule.
        task = asyncio.ensure_future(self.call("Calibrate", request, SOUND | {
            "ABORTED", "FAILED_PRECONDITION", "CANCELLED"}))
        if self.random.random() < 0.3:
            await asyncio.sleep(self.random.expovariate(1))
            for reply in await self.call("ListCalibrations", self.calibration.ListCalibrationsRequest(),
                                         may_abandon=False):
                for job in reply.calibrations[:1]:
                    await self.call("CancelCalibration", self.calibration.CancelCalibrationRequest(
                        calibration_id=job.calibration_id), SOUND | {"NOT_FOUND"})
        await task

    async def change_schedule(self):
        for reply in await self.call("ListSchedules", self.calibration.ListSchedulesRequest()):
            self.schedules = [schedule.schedule_id for schedule in reply.schedules]
        if self.schedules and self.random.random() < 0.7:
            await self.call("ActivateSchedule", self.calibration.ActivateScheduleRequest(
                schedule_id=self.random.choice(self.schedules), force=True), SOUND | {"NOT_FOUND"})
        else:
            await self.call("DeactivateSchedule", self.calibration.DeactivateScheduleRequest())

    def vanish_now(self, request):
        """A client with a connection of its own that is gone once the first message has come."""
        self.account.issued["Generate"] += 1
        self.account.abandoned["Generate"] += 1
        with contextlib.suppress(OSError), http2.connect(self.port) as client:
            client.sendall(
                http2.frame(http2.HEADERS, http2.header_block("/kascade.v1.InferenceService/Generate"),
                            http2.END_HEADERS, 1) +
                http2.frame(http2.DATA, http2.message(request.SerializeToString()), http2.END_STREAM, 1))
            for kind, _, _ in http2.frames_of(client):
                if kind == http2.DATA:
                    break
            # Closes without the farewell of TCP.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def vanish(self):
        request = self.generation.GenerateRequest(text=self.words(10, 500))
        request.stopping.max_new_tokens = 400
        await asyncio.get_running_loop().run_in_executor(None, self.vanish_now, request)

    # ---- All at once ----

    async def run(self, seconds):
        """All kinds of work for so long; returns once all calls have ended. What takes a minute more
        is cancelled."""
        end = time.monotonic() + seconds

        async def repeat(work, pause):
            await asyncio.sleep(self.random.uniform(0, min(pause, seconds / 4)))
            while time.monotonic() < end:
                await work()
                await asyncio.sleep(self.random.expovariate(1 / pause))

        work = ([(self.generate, 0.1)] * 10 + [(self.score_text, 0.3)] * 3 +
                [(self.tokenize_text, 0.3)] * 2 + [(self.be_refused, 0.3), (self.vanish, 1),
                                                   (self.calibrate, 5), (self.change_schedule, 2)])
        tasks = [asyncio.ensure_future(repeat(*item)) for item in work]
        await asyncio.wait(tasks, timeout=seconds + 60)
        self.is_over = True
        for call in list(self.running):
            call.cancel()
        await asyncio.gather(*tasks)

    async def connect(self):
        """Opens all connections, so that their descriptors are not counted as growth."""
        for stub in self.inference_stubs:
            await stub.GetModelInfo(self.info.GetModelInfoRequest())

    async def fill_cache(self):
        """Scores texts that need more of the KV cache than there is, all at once."""
        request = self.score.ScoreRequest(inputs=[{"text": self.words(16_000, 16_000)} for _ in range(3)])
        await self.call("Score", request, may_abandon=False)

    async def close(self):
        for channel in self.channels:
            await channel.close()
