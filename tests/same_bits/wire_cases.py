"""Cases that are asked of kascade-server."""

import json
import time

import schedules
import wire
import wire_records as records

BLOCKER_TOKENS = 1024  # fill one step of the server alone
BLOCKER_SECONDS = 0.02  # that the blocker must outlast the queueing of what waits behind it
TRIES = 8
SAMPLED = {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "seed": 7,
           "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.1,
           "logit_bias": [{"token_id": 5, "bias": 1.5}]}
GREEDY = {"temperature": 0, "seed": 1}


def sparse(**settings):
    return {"mode": "ATTENTION_MODE_SPARSE", **settings}


def compare(**settings):
    return {"mode": "ATTENTION_MODE_COMPARE", **settings}


DENSE = {"mode": "ATTENTION_MODE_DENSE"}


def baseline(name):
    """As the wire has it."""
    settings = dict(schedules.BASELINES[name])
    settings["kind"] = "BASELINE_KIND_" + settings["kind"].upper()
    if "dense_layers" in settings:
        settings["dense_layers"] = {"layers": settings["dense_layers"]}
    return settings


class Cases:
    """Asks one server and records its answers under one title."""

    def __init__(self, server, title, recording, tokens):
        self.server, self.title, self.recording = server, title, recording
        self.tokens = tokens
        self.new_tokens = 8 if recording.portable else 24

    def case(self, name):
        self.recording.case(f"{self.title}: {name}")

    def generate_request(self, attention, sampling, tokens):
        return {"token_ids": {"ids": tokens}, "sampling": sampling, "attention": attention,
                "stopping": {"max_new_tokens": self.new_tokens, "ignore_eos": True},
                "response": {"token_ids": True, "logprobs": True, "top_logprobs": 3}}

    def score_request(self, attention, tokens, **fields):
        return {"inputs": [{"token_ids": {"ids": tokens}}], "attention": attention,
                "response": {"tokens": True, "ranks": True, "top_logprobs": 1}, **fields}

    def generate(self, name, attention, sampling=None):
        request = self.generate_request(attention, sampling or GREEDY, self.tokens)
        self.case(f"generate, {name}")
        records.record_generated(self.server.call("InferenceService.Generate", request),
                                 self.recording)

    def score(self, name, attention, **fields):
        request = self.score_request(attention, self.tokens, **fields)
        self.case(f"score, {name}")
        records.record_scored(self.server.call("InferenceService.Score", request), self.recording)

    def pair(self, name, first, second):
        """Two requests (method, request) that are computed together from their first step on."""
        for _ in range(TRIES):
            answers = self.answers_together([first, second])
            if answers:
                break
        else:
            raise RuntimeError(f"{self.title}: {name}: the two never started together")
        for number, ((method, _), messages) in enumerate(zip((first, second), answers), 1):
            self.case(f"{name}, {number} of 2")
            record = records.record_generated if method == "Generate" else records.record_scored
            record(messages, self.recording)

    def answers_together(self, requests):
        """None if the two may not have met in the queue.

        The engine looks into its queue between steps. A blocker that takes up a whole step keeps it
        busy until both are there; they then start in the same step, in this order.
        """
        tokens = (self.tokens * (BLOCKER_TOKENS // len(self.tokens) + 1))[:BLOCKER_TOKENS]
        blocker = self.generate_request(DENSE, GREEDY, tokens)
        blocker["stopping"]["max_new_tokens"] = 1
        blocking = self.server.start("InferenceService.Generate", blocker)
        blocking.wait_started()
        time.sleep(BLOCKER_SECONDS)
        waiting = []
        for method, request in requests:
            waiting.append(self.server.start(f"InferenceService.{method}", request))
            waiting[-1].wait_started()
        queued = time.monotonic()
        answers = [stream.result() for stream in waiting]
        blocking.result()
        return answers if blocking.times[1] > queued + BLOCKER_SECONDS else None

    def activate(self, rule, info):
        names = ("name", "weights_digest", "config_digest", "tokenizer_digest")
        model = {name: getattr(info.model, name) for name in names}
        schedule = schedules.schedule(schedules.RULES[rule], info.model.layers,
                                      info.model.kv_heads, model)
        self.server.call("CalibrationService.ActivateSchedule",
                         {"schedule_json": json.dumps(schedule), "force": True})


def record_dense(cases):
    cases.generate("dense, greedy", DENSE)
    cases.generate("dense, sampled", DENSE, SAMPLED)
    cases.score("dense", DENSE)


def record_schedule(cases, rule, info):
    cases.activate(rule, info)
    cases.generate(f"{rule}, greedy", sparse())
    cases.generate(f"{rule}, sampled", sparse(), SAMPLED)
    cases.score(f"{rule}, each row decides", sparse(), phase="SELECTION_PHASE_ROW")
    cases.score(f"{rule}, tiles decide", sparse(), phase="SELECTION_PHASE_TILE")
    cases.score(f"{rule}, compared", compare(), tile_comparison=True)
    if schedules.RULES[rule]["family"] == "kascade":
        cases.score(f"{rule}, ratio 0.4, compared", compare(ratio=0.4))


def record_baselines(cases):
    for name in schedules.BASELINES:
        attention = sparse(baseline=baseline(name))
        cases.generate(f"{name}, greedy", attention)
        cases.score(f"{name}, compared", compare(baseline=baseline(name)), tile_comparison=True)


def record_protocols(cases, text):
    """Texts instead of tokens, cut into windows in each way."""
    request = {"inputs": [{"text": text}], "response": {"tokens": True},
               "attention": {"mode": "ATTENTION_MODE_DENSE"}}
    ways = {"rolling": {"protocol": "SCORE_PROTOCOL_ROLLING", "window_tokens": 65},
            "in chunks": {"protocol": "SCORE_PROTOCOL_CHUNK", "window_tokens": 64},
            "strided": {"protocol": "SCORE_PROTOCOL_STRIDED", "window_tokens": 64,
                        "stride_tokens": 24}}
    for name, fields in ways.items():
        cases.case(f"score text, {name}")
        records.record_scored(
            cases.server.call("InferenceService.Score", {**request, **fields}), cases.recording)


def record_pairs(cases):
    """With the schedule "keys" active."""
    half = cases.tokens[:len(cases.tokens) // 2]
    cases.pair("generate dense beside sparse",
               ("Generate", cases.generate_request(DENSE, GREEDY, cases.tokens)),
               ("Generate", cases.generate_request(sparse(), SAMPLED, half)))
    cases.pair("score compared beside generate with a baseline",
               ("Score", cases.score_request(compare(), half)),
               ("Generate", cases.generate_request(sparse(baseline=baseline("other quest")),
                                                   GREEDY, cases.tokens)))


def record_tokenizer(server, title, text, recording):
    """The token ids of the text."""
    found = server.call("InferenceService.Tokenize", {"texts": [text], "details": True}).results[0]
    recording.case(f"{title}: tokenizer")
    recording.exact("ids", list(found.token_ids))
    recording.exact("byte offsets", list(found.byte_offsets))
    back = server.call("InferenceService.Detokenize", {"token_ids": list(found.token_ids)}).text
    recording.exact("text back", repr(back))
    return list(found.token_ids)


def record_calibrations(cases, text):
    cut = [text[i * 5000:i * 5000 + 3800] for i in range(12)]
    ways = {"keys": {"anchors": 4, "min_keys": 16, "plan_weight": "PLAN_WEIGHT_LOSS"},
            "tiles": {"family": "SELECTION_FAMILY_TILE", "tile_size": 16, "top_k": 4,
                      "threshold": 0.35}}
    for name, fields in ways.items():
        request = {"texts": cut, "window_tokens": 512, "activate": False,
                   "max_degradation_percent": 1000, **fields}
        cases.case(f"calibrate, {name}")
        records.record_calibration(
            cases.server.call("CalibrationService.Calibrate", request), cases.recording)
