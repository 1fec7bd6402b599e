"""Judges what the engine returned against the oracle: selections and logits separately.

A pick that differs near the threshold is legal and changes later logits, so the reference logits of
a sparse run follow from the engine's own choices, and each choice is judged by the oracle's scores
on the hidden states that follow from the choices before it.
"""

import copy
import hashlib
import json
from dataclasses import dataclass

import numpy as np

from kascade import SparseAttention, budget, candidates, unit_of, with_ratio
from llama import forward, log_softmax
from probe import Disagreement
from rounding import SAFETY


SMALLEST_SCORE = 1e-30  # below, a single-precision probability may be zero
LEAST_RECALL = 0.97  # whatever the precision
MOST_FIRST_ROWS = 0.75
DIFFERS = 1e-3  # sparse against dense logits where candidates were dropped


@dataclass(frozen=True)
class Tolerance:
    logits: float  # largest difference of a row, relative to its largest magnitude
    kl: float  # mean KL(reference ‖ engine), nats
    score: float  # how far a pick may be on the wrong side of the threshold, relative to it
    recall: float  # score sum of a choice over that of the best choice, at least
    first_row: float = np.inf  # as `logits`, of the first row alone, in MOST_FIRST_ROWS of the runs


# Rounding to a level is a step. Until float32 and float64 fall on different sides of one, both round to
# the same levels and agree as without rounding: so in most first rows (MOST_FIRST_ROWS). From then on an
# activation, key or value differs by a level, one part in 127 of the largest of its row, and others after
# it do: the logits differ as much as by rounding anew, some 4 % of the largest for int8, and the
# distributions hardly.
INTEGERS = Tolerance(logits=0.1, kl=1e-3, score=0.5, recall=0.93, first_row=1e-4)
# Over an int8 cache the cpu backend computes attention in bf16, so that levels differ from the first
# row on, and by more than one: twice as much is allowed, and of the KL divergence, which goes with the
# square, four times as much.
INTEGERS_IN_BF16 = Tolerance(logits=0.2, kl=4e-3, score=1.0, recall=0.86)


def tolerance_of(effect):
    """What an engine may differ by, from what rounding does (rounding.py). KL grows with the square.

    Keys that are at most `score` on the wrong side of the threshold lose at most 2 · score of the best
    choice.
    """
    score = SAFETY * effect.score
    return Tolerance(logits=SAFETY * effect.logits, kl=SAFETY ** 2 * effect.kl, score=score,
                     recall=max(LEAST_RECALL, 1 - 2 * score))


@dataclass
class Verdict:
    """Worst figures of one run."""

    logits: float = 0.0
    kl: float = 0.0
    score: float = 0.0  # worst pick beyond the threshold, relative
    recall: float = 1.0  # smallest score sum of a choice over that of the best choice
    choices: int = 0  # (layer, group, head) with fewer picks than candidates
    first_row: float = 0.0  # as `logits`, of the first row
    away: float = 0.0  # largest relative difference from dense logits


def units_of_keys(rule, group, keys):
    """Key indices of one head -> unit numbers, after checking that they are a legal choice."""
    begin, end = candidates(rule, group)
    keys, unit = np.asarray(keys, dtype=np.int64), unit_of(rule)
    where = f"rows {group.first}..{group.last - 1}: "
    wanted = budget(rule, group) * unit
    if len(keys) != wanted:
        raise Disagreement(where + f"{len(keys)} keys chosen, budget {wanted}")
    if np.any(np.diff(keys) <= 0):
        raise Disagreement(where + "keys are not ascending and distinct")
    if len(keys) and (keys[0] < begin or keys[-1] >= end):
        raise Disagreement(where + f"keys outside the candidates [{begin}, {end})")
    units = np.unique((keys - begin) // unit)
    if len(units) * unit != len(keys):
        raise Disagreement(where + "parts of key tiles chosen")
    return units


def judge_choice(values, units, tolerance, verdict):
    """values [units of one head], units = the engine's choice; raises when it is not allowed."""
    chosen = np.zeros(len(values), dtype=bool)
    chosen[units] = True
    count = len(units)
    threshold = np.sort(values)[-count]
    wrong = 0.0
    if count < len(values):
        wrong = max(values[~chosen].max() - threshold, threshold - values[chosen].min(), 0.0)
    relative = wrong / threshold if threshold > SMALLEST_SCORE else 0.0
    verdict.score = max(verdict.score, relative)
    best = np.sort(values)[-count:].sum()
    recall = values[chosen].sum() / best if best > 0 else 1.0
    verdict.recall = min(verdict.recall, recall)
    verdict.choices += 1
    if relative > tolerance.score:
        raise Disagreement(f"score {relative:.3e} beyond the threshold {threshold:.3e}")
    if recall < tolerance.recall:
        raise Disagreement(f"recalls {recall:.6f} of the best choice's scores")


def judge_ties(values, units):
    """Of the units whose score is that of the last one chosen, the lowest must be chosen."""
    chosen = np.zeros(len(values), dtype=bool)
    chosen[units] = True
    threshold = np.sort(values)[-len(units)]
    equal = np.flatnonzero(values == threshold)
    picked = chosen[equal]
    if np.any(np.diff(picked.astype(int)) > 0):
        raise Disagreement(f"among equal scores {equal[~picked][0]} lost to a higher index")


class Judge:
    """Feeds the engine's choices to the oracle and judges them; one per run."""

    def __init__(self, model, schedule, result, tolerance):
        self.model, self.schedule, self.result = model, schedule, result
        self.tolerance, self.verdict = tolerance, Verdict()

    def ties_are_exact(self, layer, head):
        """Whether equal scores are equal in any precision: nothing was rounded on the way to them.

        So it is in layer 0, where equal tokens have equal keys, and where all queries are zero;
        elsewhere equal hidden states are sums of different rounding.
        """
        queries = self.model.layer(layer, "self_attn.q_proj")
        mine = queries.reshape(self.model.config.kv_heads, -1)[head]
        return layer == 0 or not np.any(mine)

    def given(self, layer, group):
        """Chosen keys per KV head, as SparseAttention wants them."""
        rule = self.schedule.rule
        entry = self.result.selections.get((layer, group.first))
        if entry is None:
            raise Disagreement(f"layer {layer} made no choice for row {group.first}")
        begin, end = candidates(rule, group)
        said = (entry["rows"], entry["candidates_begin"], entry["candidates_end"])
        if said != (group.last - group.first, begin, end):
            raise Disagreement(f"layer {layer} row {group.first}: rows and candidates {said}, "
                               f"not {(group.last - group.first, begin, end)}")
        for head in self.schedule.used_heads(layer):
            units_of_keys(rule, group, entry["indices"][head])
        return [np.asarray(keys, dtype=np.int64) for keys in entry["indices"]]

    def on_choice(self, layer, group, values, sets):
        for head in sorted(self.schedule.used_heads(layer)):
            units = units_of_keys(self.schedule.rule, group, sets[head])
            try:
                if len(units):
                    judge_choice(values[head], units, self.tolerance, self.verdict)
                    if self.ties_are_exact(layer, head):
                        judge_ties(values[head], units)
            except Disagreement as error:
                raise Disagreement(f"layer {layer} head {head} rows {group.first}.."
                                   f"{group.last - 1}: {error}") from None

    def check_whole_choices(self):
        """Where every candidate fits the budget, an engine that reports a choice takes them all."""
        rule = self.schedule.rule
        for (layer, first), entry in self.result.selections.items():
            begin, end = entry["candidates_begin"], entry["candidates_end"]
            unit = unit_of(rule)
            wanted = rule.top_k * unit if rule.family == "tile" else max(
                rule.min_keys, int(rule.ratio * float(end)))
            if wanted < end - begin:
                continue
            for head in self.schedule.used_heads(layer):
                if entry["indices"][head] != list(range(begin, end)):
                    raise Disagreement(f"layer {layer} row {first}: not all candidates taken")


def row_errors(logits, wanted):
    """Largest difference of each row, relative to the row's largest magnitude."""
    return np.abs(logits - wanted).max(axis=1) / np.abs(wanted).max(axis=1)


def judge_logits(logits, wanted, tolerance, verdict):
    """Both [L, V]; raises when they are too far apart."""
    if logits.shape != wanted.shape:
        raise Disagreement(f"logits of shape {logits.shape}, not {wanted.shape}")
    logits = logits.astype(np.float64)
    errors = row_errors(logits, wanted)
    reference = log_softmax(wanted)
    kl = (np.exp(reference) * (reference - log_softmax(logits))).sum(axis=1)
    verdict.logits, verdict.kl = float(errors.max()), float(kl.mean())
    if not verdict.logits <= tolerance.logits:  # also when it is not a number
        row = int(np.argmax(~(errors <= tolerance.logits)))
        raise Disagreement(f"logits differ by {verdict.logits:.3e} of the row's largest, "
                           f"first at row {row}")
    verdict.first_row = float(errors[0])
    if not verdict.kl <= tolerance.kl:
        raise Disagreement(f"mean KL is {verdict.kl:.3e}")


def judge_first_rows(verdicts, tolerance):
    """Raises when too many runs differ in their first row."""
    far = [v.first_row for v in verdicts if not v.first_row <= tolerance.first_row]
    if len(far) > (1 - MOST_FIRST_ROWS) * len(verdicts):
        raise Disagreement(f"in {len(far)} of {len(verdicts)} runs the first row differs by more than "
                           f"{tolerance.first_row:.0e}, at most by {max(far):.3e}")


def judge_dense(run, result, tokens, dense, tolerance):
    verdict = Verdict()
    judge_logits(result.logits, dense, tolerance, verdict)
    if run.greedy_from is not None:
        told = result.logits[run.greedy_from:-1].argmax(axis=1)
        other = np.flatnonzero(told != np.asarray(tokens[run.greedy_from + 1:run.length]))
        if len(other):
            raise Disagreement(f"greedy text differs from its token {other[0]} on")
    return verdict


def judge_nearby(model, run, result, tokens, dense, tolerance):
    """Attention in which nothing is chosen: the logits follow from the definition."""
    verdict = Verdict()
    wanted = forward(model, tokens[:run.length], model.over_cache(run.nearby.attention))
    judge_logits(result.logits, wanted, tolerance, verdict)
    check_drops(run, result, dense, verdict)
    return verdict


def check_drops(run, result, dense, verdict):
    verdict.away = float(row_errors(result.logits.astype(np.float64), dense).max())
    if run.drops and verdict.away < DIFFERS:
        raise Disagreement(f"sparse logits differ from dense ones by {verdict.away:.1e} only")


def judge_choices(model, run, result, tokens, tolerance):
    """(verdict on the choices of one run, reference logits that follow from them)."""
    schedule = with_ratio(run.schedule, run.ratio)
    judge = Judge(model, schedule, result, tolerance)
    judge.check_whole_choices()
    attention = SparseAttention(schedule, run.end, judge.given, judge.on_choice)
    return judge.verdict, forward(model, tokens[:run.length], model.over_cache(attention))


def digest_of(selections):
    """The same for the same choices."""
    text = json.dumps([selections[key] for key in sorted(selections)], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def judge_run(model, run, result, tokens, dense, tolerance, judged=None):
    """Verdict of one run; dense = reference logits of the same tokens by dense attention.

    judged: judge_choices of earlier runs, which serve where another backend chose just the same.
    """
    if run.nearby is not None:
        return judge_nearby(model, run, result, tokens, dense, tolerance)
    if run.schedule is None:
        return judge_dense(run, result, tokens, dense, tolerance)
    judged, key = {} if judged is None else judged, (run, tolerance, digest_of(result.selections))
    if key not in judged:
        judged[key] = judge_choices(model, run, result, tokens, tolerance)
    verdict, wanted = copy.copy(judged[key][0]), judged[key][1]
    judge_logits(result.logits, wanted, tolerance, verdict)
    if run.drops and verdict.choices == 0:
        raise Disagreement("no candidate was dropped")
    check_drops(run, result, dense, verdict)
    return verdict
