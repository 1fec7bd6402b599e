"""The training loop: a plan of stages by tokens seen, checkpoints, a log.

Everything is counted in tokens, so a run that is stopped, slowed or resumed goes the same way.
"""

import dataclasses
import json
import os
import time

import numpy as np
import torch

from . import evaluation
from .model import Shape, initial_parameters, repeat_layers
from .optimiser import Optimiser
from .tasks import ANSWER_WEIGHT, REPEAT_WEIGHT, Tasks

REPORT_STEPS, SAVE_STEPS = 50, 100
TASKS_WITH_ANSWERS = ("passkey", "chain", "crowd", "register")
TASKS_WITH_REPEATS = ("copy", "recopy")


class Plan:
    """The stages of a plan file and the learning rates; see plan.json for the fields."""

    def __init__(self, fields):
        self.fields, self.stages, self.mixes = fields, fields["stages"], fields["mixes"]
        self.decay, self.growth = fields["decay"], fields.get("growth")
        self.shape = Shape(**fields["shape"])

    @property
    def end(self):
        return self.decay["to_tokens"]

    def stage(self, tokens, passed_gate):
        """The stage for a number of tokens seen.

        A stage with a gate is left as soon as the gate is passed, and not before.
        """
        for stage in self.stages:
            gate = stage.get("until_rand_nll_below")
            if gate is not None and not passed_gate:
                if tokens >= stage["from_tokens"]:
                    return stage
            elif gate is None and tokens < stage["to_tokens"]:
                return stage
        return self.stages[-1]

    def grown_shape(self):
        """The shape after `growth`, of which {at_tokens, layers} tells when, and which layers."""
        return dataclasses.replace(self.shape, layers=len(self.growth["layers"]))

    def rate(self, tokens, steps_since_start):
        """Factor of the learning rates: warm-up, constant, linear decay to the floor."""
        warm = min(1.0, (steps_since_start + 1) / self.fields["warm_up_steps"])
        start, end = self.decay["from_tokens"], self.decay["to_tokens"]
        return warm * min(1.0, max(self.decay["floor"], (end - tokens) / max(1, end - start)))


class Trainer:
    """Model, optimiser, data and counts; they are what a checkpoint holds.

    make_model(shape, parameters) gives a model as model.PlainModel.
    """

    def __init__(self, make_model, tasks, plan, folder):
        self.make_model, self.tasks, self.plan, self.folder = make_model, tasks, plan, folder
        self.model = make_model(plan.shape, initial_parameters(plan.shape, plan.fields["seed"]))
        self.optimiser = Optimiser(self.model)
        self.tokens, self.steps, self.passed_gate, self.begun_at = 0, 0, False, 0
        self.running = {}  # Kind of document → running mean of the NLL that it is about.
        self.stopping = False

    # ---- Checkpoints -------------------------------------------------------------------------

    def save(self, name):
        """Writes a checkpoint under a temporary name first, so that a kill leaves no half file."""
        path = os.path.join(self.folder, name)
        parameters = {k: v.detach().cpu() for k, v in self.model.parameters.items()}
        torch.save({"shape": vars(self.model.shape), "parameters": parameters,
                    "optimiser": self.optimiser.state(), "tokens": self.tokens,
                    "steps": self.steps, "passed_gate": self.passed_gate,
                    "cursor": self.tasks.book.cursor,
                    "random": self.tasks.rng.bit_generator.state}, path + ".part")
        os.replace(path + ".part", path)

    def load(self, path):
        state = torch.load(path, map_location="cpu")
        shape = Shape(**state["shape"])
        if shape not in (self.plan.shape, self.plan.growth and self.plan.grown_shape()):
            raise SystemExit(f"{path}: {shape}, the plan has {self.plan.shape}")
        self.take(shape, state["parameters"], state["optimiser"])
        self.tokens, self.steps = state["tokens"], state["steps"]
        self.passed_gate, self.begun_at = state["passed_gate"], state["steps"]
        self.tasks.book.cursor = state["cursor"]
        self.tasks.rng.bit_generator.state = state["random"]

    def take(self, shape, parameters, optimiser_state):
        """Goes on with another model."""
        self.model = self.make_model(shape, parameters)
        self.optimiser = Optimiser(self.model)
        self.optimiser.load(optimiser_state)

    def grow(self):
        """Repeats layers as the plan says, once its tokens are seen."""
        growth = self.plan.growth
        if growth and self.tokens >= growth["at_tokens"] and self.model.shape == self.plan.shape:
            parameters = {k: v.detach().cpu() for k, v in self.model.parameters.items()}
            self.take(self.plan.grown_shape(), repeat_layers(parameters, growth["layers"]),
                      self.optimiser.repeat_layers(growth["layers"]))

    # ---- Steps -------------------------------------------------------------------------------

    def step(self):
        """One batch of the present stage. Returns stage, length, factor and gradient norm."""
        stage = self.plan.stage(self.tokens, self.passed_gate)
        lengths, shares = zip(*stage["lengths"].items())
        drawn = self.tasks.rng.choice(len(lengths), p=np.array(shares) / sum(shares))
        length = int(lengths[drawn])
        documents = max(1, stage["tokens_per_step"] // length)
        ids, weights, positions, kinds = self.tasks.batch(
            documents, length, self.plan.mixes[stage["mix"]], stage["skipped_positions"],
            self.model.shape.context)
        _, nll, _ = self.model.run(ids, weights, positions, train=True)
        factor = self.plan.rate(self.tokens, self.steps - self.begun_at)
        rates = self.plan.fields["learning_rate"]
        norm = self.optimiser.step(rates["muon"] * factor, rates["adam"] * factor)
        self.steps += 1
        self.tokens += documents * length
        self.observe(kinds, weights[:, 1:], nll.numpy())
        gate = stage.get("until_rand_nll_below")
        if gate is not None and self.running.get("rand", np.inf) < gate:
            self.passed_gate = True
        return stage["mix"], length, factor, norm

    def observe(self, kinds, weights, nll):
        """Running means per kind: of the answers, of the repeats, else of all that is learned."""
        for kind in set(kinds):
            chosen = kinds == kind
            marked = weights[chosen] == 1
            if kind in TASKS_WITH_ANSWERS:
                marked = weights[chosen] == ANSWER_WEIGHT
            elif kind in TASKS_WITH_REPEATS:
                marked = weights[chosen] == REPEAT_WEIGHT
            if marked.any():
                now = float(nll[chosen][marked].mean())
                self.running[kind] = 0.95 * self.running.get(kind, now) + 0.05 * now

    def train(self, examiner):
        """Trains to the end of the plan, or until stop(). examiner(model) evaluates it."""
        every = self.plan.fields["evaluate_every_tokens"]
        examined, clock, counted = self.tokens, time.time(), self.tokens
        decay_begins = self.plan.decay["from_tokens"]
        while self.tokens < self.plan.end and not self.stopping:
            before = self.tokens
            self.grow()
            mix, length, factor, norm = self.step()
            if before <= decay_begins < self.tokens:
                self.save("before-decay.pt")
            if self.steps % SAVE_STEPS == 0:
                self.save("last.pt")
            if self.steps % REPORT_STEPS == 0:
                speed = (self.tokens - counted) / (time.time() - clock)
                self.log("train", mix=mix, length=length, rate=round(factor, 4),
                         gradient_norm=round(norm, 3), tokens_per_second=round(speed))
                clock, counted = time.time(), self.tokens
            if self.tokens - examined >= every or self.tokens >= self.plan.end:
                examined, began = self.tokens, time.time()
                self.log("evaluation", **examiner(self.model))
                clock += time.time() - began
        self.save("last.pt" if self.stopping else "final.pt")

    def stop(self, *_):
        """Ends train() after the present step, with a checkpoint; may be a signal's handler."""
        self.stopping = True

    def log(self, event, **fields):
        """Appends a line of JSON to log.jsonl."""
        record = {"event": event, "time": round(time.time()), "steps": self.steps,
                  "tokens": self.tokens, **fields,
                  "nll": {k: round(v, 4) for k, v in sorted(self.running.items())}}
        with open(os.path.join(self.folder, "log.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


def progress_examiner(tokenizer, held_out, words, cases):
    """A short examination during training: 16 K tokens of the first held-out book, a few cases.

    cases: [length, count, name of wordings.SETS] per row of recall.
    """
    def examine(model):
        ids = held_out[0]
        result = {"bits_per_byte": evaluation.bits_per_byte(
            model, tokenizer, ids[: 32 * 512], 512)["bits_per_byte"]}
        for length, count, wording in cases:
            tasks = Tasks(tokenizer, ids, words, seed=77 + length)
            found = evaluation.recall(model, tasks, length, count, wording)
            suffix = "" if wording == "trained" else "_" + wording
            result[f"recall_{length}{suffix}"] = found / count
        return result

    return examine
