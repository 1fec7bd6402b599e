#!/usr/bin/env python3
"""Writes the seeds of the fuzz target of requests: tests/fuzz/make_requests_corpus.py

A seed is a sequence of calls as request_sequence.h describes them, for a model of 3 layers, 264 tokens
and a context of 256. Files that are no seeds of this program stay, such as inputs of crashes.
"""

import json
import pathlib
import struct
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
METHODS = ("Generate", "Score", "Trace", "Tokenize", "Detokenize", "GetModelInfo", "Calibrate",
           "WatchCalibration", "GetCalibration", "ListCalibrations", "CancelCalibration", "GetSchedule",
           "ListSchedules", "ActivateSchedule", "DeactivateSchedule")
TEXT = "the thin lines in the other corner " * 6
# Bits of what a client does, as `Client` of request_sequence.h reads them.
READ_ALL, CANCEL_AT_ONCE, CANCEL_AFTER_ONE, CANCEL_AFTER_TWO, BESIDE, SHORT, UNREAD = 0, 1, 2, 3, 4, 8, 16


def call(method, request, client=READ_ALL):
    data = request if isinstance(request, bytes) else request.SerializeToString()
    return struct.pack("<BBH", METHODS.index(method), client, len(data)) + data


def schedule():
    """A schedule of another model: what a client may send, and the server refuses."""
    return json.dumps({"format": "kascade-schedule", "version": 1, "layers": [{"role": "dense"}] * 3})


def sequences():
    from kascade.v1 import (calibration_service_pb2 as c, generate_pb2 as g, inference_service_pb2 as i,
                            score_pb2 as s, tokenize_pb2 as t, trace_pb2 as r)
    from kascade.v1.attention_pb2 import ATTENTION_MODE_COMPARE, ATTENTION_MODE_SPARSE
    from kascade.v1.chat_pb2 import CHAT_FORMAT_VICUNA
    streaming = {"baseline": {"kind": 2, "ratio": 0.25, "min_keys": 4, "sink_keys": 2}}
    generation = g.GenerateRequest(
        text="in the", sampling={"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 3,
                                 "repetition_penalty": 1.1, "logit_bias": [{"token_id": 5, "bias": 2}]},
        stopping={"max_new_tokens": 12, "stop_strings": ["zz"], "stop_token_ids": [9], "ignore_eos": True},
        response={"token_ids": True, "logprobs": True, "top_logprobs": 3, "prompt_token_ids": True})
    chat = g.GenerateRequest(chat={"format": CHAT_FORMAT_VICUNA, "messages": [{"role": 2, "content": "in the"}]},
                             stopping={"max_new_tokens": 4})
    score = s.ScoreRequest(inputs=[{"text": TEXT}, {"token_ids": {"ids": [5, 6, 7, 8, 9]}},
                                   {"text": "thin", "context": "the "}],
                           response={"tokens": True, "ranks": True, "top_logprobs": 2})
    compare = s.ScoreRequest(inputs=[{"text": TEXT}], attention={
        "mode": ATTENTION_MODE_COMPARE, **streaming}, tile_comparison=True, window_tokens=65)
    strided = s.ScoreRequest(inputs=[{"text": TEXT}], protocol=4, window_tokens=64, stride_tokens=32,
                             attention={"mode": ATTENTION_MODE_SPARSE, **streaming})
    trace = r.TraceRequest(text=TEXT, attention={"baseline": {"kind": 2, "ratio": 0.25}}, layers=[1, 2],
                           kv_heads=[0], position=40)
    calibrate = c.CalibrateRequest(texts=[TEXT * 4], held_out_texts=[TEXT * 10], ratio=0.3, anchors=1,
                                   min_keys=8, window_tokens=64, tile_size=16, retrieval=False,
                                   max_degradation_percent=50, kinds=["prose"], held_out_kinds=["prose"],
                                   dense_below=0)
    info, jobs, listed = i.GetModelInfoRequest(), c.ListCalibrationsRequest(), c.ListSchedulesRequest()
    yield "generate", [("Generate", generation), ("Generate", chat), ("GetModelInfo", info)]
    yield "generate-left", [("Generate", generation, client) for client in (
        CANCEL_AT_ONCE, CANCEL_AFTER_ONE, CANCEL_AFTER_TWO, SHORT, UNREAD, BESIDE)]
    yield "score", [("Score", score), ("Score", compare), ("Score", strided)]
    yield "score-left", [("Score", compare, client) for client in (
        CANCEL_AT_ONCE, CANCEL_AFTER_ONE, BESIDE | SHORT, BESIDE | UNREAD, BESIDE)]
    yield "trace", [("Trace", trace), ("Trace", trace, CANCEL_AFTER_ONE), ("Trace", trace, BESIDE)]
    yield "tokens", [("Tokenize", t.TokenizeRequest(texts=[TEXT, ""], details=True)),
                     ("Detokenize", t.DetokenizeRequest(token_ids=[5, 200, 256, 262]))]
    yield "calibrate", [("Calibrate", calibrate), ("ListCalibrations", jobs), ("ListSchedules", listed),
                        ("GetSchedule", c.GetScheduleRequest()), ("Generate", generation)]
    yield "calibrate-beside-others", [
        ("Calibrate", calibrate, BESIDE), ("Generate", generation, BESIDE), ("Score", score, BESIDE),
        ("ListCalibrations", jobs), ("DeactivateSchedule", c.DeactivateScheduleRequest())]
    yield "calibrate-left", [("Calibrate", calibrate, CANCEL_AFTER_ONE),
                             ("WatchCalibration", c.WatchCalibrationRequest(calibration_id="cal-1ad8a991635e2dfd")),
                             ("CancelCalibration", c.CancelCalibrationRequest(calibration_id="cal-1ad8a991635e2dfd")),
                             ("GetCalibration", c.GetCalibrationRequest(calibration_id="cal-1ad8a991635e2dfd"))]
    yield "activate", [("ActivateSchedule", c.ActivateScheduleRequest(schedule_json=schedule(), force=True)),
                       ("ActivateSchedule", c.ActivateScheduleRequest(schedule_id="none"))]
    yield "no-messages", [(method, b"\x0a\xff\xff") for method in METHODS[:8]]


def main():
    sys.path.insert(0, str(ROOT / "tests/end_to_end"))
    import stubs
    with tempfile.TemporaryDirectory() as folder:
        stubs.generate_stubs(folder)
        for name, calls in sequences():
            (ROOT / "tests/fuzz/corpus/requests" / name).write_bytes(
                b"".join(call(*parts) for parts in calls))


if __name__ == "__main__":
    main()
