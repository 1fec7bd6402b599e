#!/usr/bin/env python3
"""Kills a server with SIGKILL at random moments of calibrations and activations. Whatever it was
doing, the next one has the old schedule or the new one active, continues the calibration or tells
how it ended, and leaves no half-written file behind.

Usage: kill_test.py KASCADE_SERVER [unittest arguments]; KASCADE_KILLS=N changes the number of kills.
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import stubs

MODEL = pathlib.Path(__file__).resolve().parents[2] / "models/demo"
KILLS = int(os.environ.get("KASCADE_KILLS", "50"))
LATEST_KILL = 0.4  # seconds after the calls began

server_path = None


class KillTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import grpc
        from kascade.v1 import calibration_service_pb2, calibration_service_pb2_grpc
        cls.grpc, cls.pb = grpc, calibration_service_pb2
        cls.service = calibration_service_pb2_grpc.CalibrationServiceStub
        cls.text = (MODEL / "calibration.txt").read_text()

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="kascade-kill-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.schedules = self.folder / "schedules"
        self.log = open(self.folder / "log", "w")
        self.addCleanup(self.log.close)
        self.server = None
        self.addCleanup(self.kill)

    def start(self):
        ports = self.folder / "ports"
        ports.unlink(missing_ok=True)
        self.server = subprocess.Popen(
            [server_path, "--model", MODEL, "--listen", "127.0.0.1:0", "--metrics-listen", "",
             "--threads", "1", "--kv-memory", "16MiB", "--schedule-dir", self.schedules,
             "--port-file", ports], stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while not ports.exists():
            self.assertIsNone(self.server.poll(), self.logged())
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)
        channel = self.grpc.insecure_channel(f"127.0.0.1:{ports.read_text().split()[0]}",
                                             options=[("grpc.use_local_subchannel_pool", 1)])
        self.addCleanup(channel.close)
        self.stub = self.service(channel)

    def kill(self):
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def logged(self):
        return (self.folder / "log").read_text()

    def request(self, number):
        """One of many calibrations of a second or two, each with texts of its own."""
        return self.pb.CalibrateRequest(
            texts=[self.text[100 * number:100 * number + 24000]], anchors=8, min_keys=32,
            window_tokens=256, max_degradation_percent=1000, retrieval=False,
            plan_weight=self.pb.PLAN_WEIGHT_IMPORTANCE)

    def calibrated(self, number):
        """The id of the schedule of a calibration that is left alone."""
        *_, last = self.stub.Calibrate(self.request(number), timeout=120)
        self.assertTrue(last.result.passed, last)
        return last.result.schedule.schedule_id

    def job(self, calibration_id):
        return self.stub.GetCalibration(
            self.pb.GetCalibrationRequest(calibration_id=calibration_id), timeout=60).calibration

    def finished(self, calibration_id):
        """The id of the schedule that a calibration makes."""
        *_, last = self.stub.WatchCalibration(
            self.pb.WatchCalibrationRequest(calibration_id=calibration_id), timeout=120)
        return last.result.schedule.schedule_id

    def active(self):
        return self.stub.ListSchedules(self.pb.ListSchedulesRequest(),
                                       timeout=60).active_schedule_id

    def follow(self, number, seen):
        try:
            for message in self.stub.Calibrate(self.request(number)):
                if message.HasField("started"):
                    seen["job"] = message.started.calibration_id
        except self.grpc.RpcError as error:
            seen["ends"].add(error.code())

    def activate_in_turns(self, ids, seen):
        """Notes in seen["may_be"] what may be active: what was activated last, and what is being
        activated."""
        try:
            while True:
                for schedule_id in ids:
                    seen["may_be"] = {seen["now"], schedule_id}
                    self.stub.ActivateSchedule(
                        self.pb.ActivateScheduleRequest(schedule_id=schedule_id))
                    seen["now"] = schedule_id
                    seen["activations"] += 1
        except self.grpc.RpcError as error:
            seen["ends"].add(error.code())

    def half_written(self):
        return {path for path in self.schedules.rglob("*") if path.name.startswith(".")}

    def expect_whole_files(self, half_written):
        """After a start; `half_written` were there before it."""
        self.assertFalse(half_written & self.half_written())
        for path in self.schedules.glob("*.json"):
            self.assertIn("schedule_id", json.loads(path.read_text()))
        self.assertNotIn("left out", self.logged())

    def wait_for_a_moment(self, follower, after_the_end):
        """A moment at which something is going on, or right after a calibration ended."""
        if after_the_end:
            follower.join(60)
            time.sleep(self.moments.uniform(0, 0.02))
        else:
            time.sleep(self.moments.uniform(0, LATEST_KILL))

    def kill_during_calls(self, number, ids, now, turn):
        """Returns what was seen before a kill, with a new server running."""
        seen = {"now": now, "may_be": {now}, "ends": set(), "activations": 0}
        threads = [threading.Thread(target=self.follow, args=(number, seen))]
        if turn % 2 == 1:
            threads.append(threading.Thread(target=self.activate_in_turns, args=(ids, seen)))
        for thread in threads:
            thread.start()
        self.wait_for_a_moment(threads[0], after_the_end=turn % 8 == 4)
        self.kill()
        for thread in threads:
            thread.join()
        self.assertLessEqual(seen["ends"], {self.grpc.StatusCode.UNAVAILABLE})
        half_written = self.half_written()
        self.start()
        self.expect_whole_files(half_written)
        return seen

    def test_nothing_is_half_done_after_a_kill(self):
        self.moments = random.Random(7)
        self.start()
        ids = [self.calibrated(number) for number in (0, 1)]
        now, number, states, activations = self.active(), 2, {}, 0
        for turn in range(KILLS):
            seen = self.kill_during_calls(number, ids, now, turn)
            activations += seen["activations"]
            now = self.active()
            job = self.job(seen["job"]) if "job" in seen else self.pb.Calibration()
            state = self.pb.CalibrationState.Name(job.state)
            states[state] = states.get(state, 0) + 1
            if "job" in seen:
                self.assertIn(job.state, (self.pb.CALIBRATION_STATE_RUNNING,
                                          self.pb.CALIBRATION_STATE_SUCCEEDED), job)
            if now not in seen["may_be"]:  # then the calibration has activated its schedule
                self.assertEqual(now, self.finished(seen["job"]))
            if job.state == self.pb.CALIBRATION_STATE_SUCCEEDED:
                number += 1
        print(f"{KILLS} kills, {activations} activations; calibrations found afterwards: {states}",
              file=sys.stderr)
        self.assertGreater(activations, 0)
        for state in "RUNNING", "SUCCEEDED":
            self.assertGreaterEqual(states.get("CALIBRATION_STATE_" + state, 0), KILLS // 10, states)


if __name__ == "__main__":
    server_path = os.path.abspath(sys.argv.pop(1))
    with tempfile.TemporaryDirectory(prefix="kascade-kill-stubs-") as stub_folder:
        stubs.generate_stubs(pathlib.Path(stub_folder))
        unittest.main()
