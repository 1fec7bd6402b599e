"""Agreement of trained sparse adapters with their float64 reference:
adapter_agreement.py ADAPTER_PROBE [FILTER]. Without the program, only the reference checks itself.

For each case a random model and a random adapter are written; adapter_probe computes the residual
stream and the losses of a text with them. FILTER: only cases whose name contains it.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

import numpy as np

import adapter_reference as reference
from adapter_reference import Adapter
from llama import Model, dense_attention
from random_model import Spec, write_model, write_safetensors

MOST_DIFFERENCE = 1e-6  # relative; of a stream relative to the largest number of its layer
PROBE_SECONDS = 120
NO_TARGETS = 5  # first rows without a target, as of a prompt; fewer of short texts

OPTIONS = {
    "compress_block": 8, "compress_stride": 8, "key_compressor": "max_pool",
    "value_compressor": "mlp", "mlp_expansion": 1.0, "mlp_bias": False, "shared_mlp": False,
    "shared_positions": False, "compressor_norm": False, "memory_slots": 1,
    "sees_own_window": False, "selection_block": 8, "selected_blocks": 3, "first_blocks": 0,
    "local_blocks": 1, "window": 12, "gate": "sigmoid", "gate_start": [-2.0, -2.0, 2.0],
    "own_output": False, "own_projections": False}


@dataclass(frozen=True)
class Case:
    name: str
    spec: Spec
    options: dict = field(default_factory=dict)  # that differ from OPTIONS
    length: int = 50
    period: int = 0  # tokens after which the text repeats itself
    loss: str = "mixed"

    @property
    def tokens(self):
        rng = np.random.default_rng(self.spec.seed)
        tokens = rng.integers(0, self.spec.vocab, self.length)
        return [int(tokens[i % self.period if self.period else i]) for i in range(self.length)]

    @property
    def targets(self):
        unknown = min(NO_TARGETS, self.length // 4)
        return [-1] * unknown + self.tokens[unknown + 1:] + [-1]


def cases():
    """All compressors, gates, slots, ways of sharing, and one to four query heads a KV head."""
    one = Spec(layers=2, heads=2, kv_heads=2, head_dim=16)
    two = Spec(layers=3, heads=4, kv_heads=2, head_dim=16)
    four = Spec(layers=2, heads=4, kv_heads=1, head_dim=8)
    half = {"compress_block": 8, "compress_stride": 4}
    rows = [
        ("as in the seed", two, {}, {}),
        ("means, softmax, no slot", one, {
            "key_compressor": "mean_pool", "value_compressor": "mean_pool", "gate": "softmax",
            "memory_slots": 0}, {}),
        ("networks with biases, half strides", four, {
            **half, "key_compressor": "mlp", "mlp_bias": True, "memory_slots": 2,
            "sees_own_window": True, "mlp_expansion": 0.37}, {"loss": "kl_output_only"}),
        ("shared networks and positions", two, {
            "key_compressor": "mlp", "shared_mlp": True, "shared_positions": True,
            "mlp_bias": True, "compressor_norm": True, "gate": "softmax"}, {"loss": "mse_hidden"}),
        ("shared networks, own positions", two, {
            "value_compressor": "mlp", "shared_mlp": True, "mlp_expansion": 0.01}, {"loss": "ce"}),
        ("networks of their own, shared positions", two, {
            "key_compressor": "mlp", "value_compressor": "max_pool", "shared_positions": True,
            "compressor_norm": True}, {"loss": "kl_logits"}),
        ("own projections and output", Spec(layers=2, heads=6, kv_heads=2, head_dim=16), {
            "own_projections": True, "own_output": True, "value_compressor": "max_pool"}, {}),
        ("first and local blocks, wide selection blocks", two, {
            **half, "compress_stride": 2, "selection_block": 10, "selected_blocks": 5,
            "first_blocks": 1, "local_blocks": 2, "window": 3}, {"length": 97}),
        ("forced blocks alone", one, {
            "selected_blocks": 3, "first_blocks": 1, "local_blocks": 2,
            "sees_own_window": True}, {}),
        ("text shorter than a window", four, {
            "compress_block": 32, "compress_stride": 16, "selection_block": 32,
            "window": 64}, {"length": 21}),
        ("the same without slots", four, {
            "compress_block": 32, "selection_block": 32, "memory_slots": 0,
            "gate": "softmax"}, {"length": 21}),
        ("windows of one token", four, {
            "compress_block": 1, "compress_stride": 1, "selection_block": 4,
            "sees_own_window": True, "memory_slots": 0}, {"length": 33}),
        ("two tokens", two, {}, {"length": 2}),
        # In the first layer all windows are equal: of equals the one with the lower index.
        ("a text of equal blocks", one, {"value_compressor": "mean_pool"}, {"period": 8}),
        ("biases of queries, keys and values", Spec(
            layers=2, heads=3, kv_heads=1, head_dim=16, family="qwen2"), {}, {}),
        ("multipliers", Spec(layers=2, heads=4, kv_heads=2, family="granite"), {}, {}),
        ("scaled rotation", Spec(layers=2, heads=4, kv_heads=2, tied=True, rope=tuple({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}.items())), {**half}, {}),
    ]
    for number, (name, spec, options, others) in enumerate(rows):
        yield Case(name, Spec(**{**spec.__dict__, "seed": 100 + number}), options, **others)


# ---- Random adapters ----


def compressor_tensors(rng, part, compressor, spec, options):
    """{name after the layer's: array}; sizes as in engine/adapter/parameters.h."""
    network, dim = compressor == "mlp", spec.head_dim
    sets = 1 if network and options["shared_positions"] else spec.kv_heads
    tensors = {"positions": 0.5 * rng.normal(size=(sets, options["compress_block"], dim))}
    if network:
        count = 1 if options["shared_mlp"] else spec.kv_heads
        inputs = options["compress_block"] * dim
        units = max(int(inputs * options["mlp_expansion"]), dim)
        tensors["hidden.weight"] = rng.normal(size=(count, units, inputs)) / inputs ** 0.5
        tensors["out.weight"] = 2.0 * rng.normal(size=(count, dim, units)) / units ** 0.5
        if options["mlp_bias"]:
            tensors["hidden.bias"] = 0.5 * rng.normal(size=(count, units))
            tensors["out.bias"] = 0.5 * rng.normal(size=(count, dim))
    if options["compressor_norm"]:
        tensors["norm"] = 1.0 + 0.3 * rng.normal(size=dim)
    return {f"{part}.{name}": value for name, value in tensors.items()}


def layer_tensors(rng, spec, options):
    queries, keys, width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.width
    tensors = {
        **compressor_tensors(rng, "keys", options["key_compressor"], spec, options),
        **compressor_tensors(rng, "values", options["value_compressor"], spec, options),
        "gate.weight": rng.normal(size=(3 * spec.heads, width)) / width ** 0.5,
        "gate.bias": 0.5 * rng.normal(size=3 * spec.heads)}
    if options["memory_slots"]:
        shape = 2, spec.kv_heads, options["memory_slots"], spec.head_dim
        tensors["memory"] = rng.normal(size=shape)
    if options["own_output"]:
        tensors["output.weight"] = 0.7 * rng.normal(size=(width, queries)) / queries ** 0.5
    if options["own_projections"]:
        scale = 1.5 / width ** 0.5
        tensors["projections.weight"] = scale * rng.normal(size=(queries + 2 * keys, width))
    return tensors


def write_adapter(folder, spec, options, change=None):
    """A random adapter; change(name, array) -> array, if given, of each tensor of a layer."""
    rng = np.random.default_rng(spec.seed + 500)
    tensors = {}
    for layer in range(spec.layers):
        for name, value in layer_tensors(rng, spec, options).items():
            tensors[f"layers.{layer}.{name}"] = change(name, value) if change else value
    folder.mkdir(parents=True)
    write_safetensors(folder / "adapter.safetensors", tensors, "F32")
    shape = {"layers": spec.layers, "hidden": spec.width, "heads": spec.heads,
             "kv_heads": spec.kv_heads, "head_dim": spec.head_dim}
    description = {"format": 1, "model": {"weights_digest": "", **shape}, "options": options,
                   "training": {}}
    (folder / "adapter.json").write_text(json.dumps(description, indent=2))
    return folder


# ---- What the program prints ----


def probe_result(program, model, adapter, case, folder):
    request = {"tokens": case.tokens, "targets": case.targets, "loss_mode": case.loss}
    (folder / "case.json").write_text(json.dumps(request))
    command = [str(program), str(model), str(adapter), str(folder / "case.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS,
                          check=False)
    if done.returncode != 0:
        raise ValueError(f"adapter_probe ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def expected_result(model, adapter, case):
    dense = reference.dense_stream(model, case.tokens)
    loss = reference.LOSSES[case.loss]
    losses = reference.text_losses(model, adapter, case.tokens, case.targets, loss)
    layer_losses = [reference.layer_loss(model, adapter, layer, dense[layer])
                    for layer in range(model.config.layers)]
    return {"stream": reference.adapted_stream(model, adapter, case.tokens),
            # Parts without weight need not be computed.
            "losses": {name: value for name, value in losses.items()
                       if name == "loss" or getattr(loss, name)},
            "layer_losses": layer_losses}


def difference(name, found, expected):
    """None, or the sentence that says where two arrays differ most."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected)
    if found.shape != expected.shape:
        return f"{name}: has the shape {found.shape}, expected {expected.shape}"
    missed = np.nan_to_num(np.abs(found - expected), nan=np.inf, posinf=np.inf)
    allowed = MOST_DIFFERENCE * np.abs(expected).max()
    if missed.max() <= allowed:
        return None
    place = np.unravel_index(missed.argmax(), missed.shape)
    where = f"{name}{[int(i) for i in place]}" if place else name
    return (f"{where}: is {found[place]:.12g}, expected {expected[place]:.12g}; "
            f"{(missed > allowed).sum()} of {missed.size} differ")


def differences(found, expected):
    """Sentences; of the stream only about the first layer that differs, from which others follow."""
    said = []
    if len(found["stream"]) != len(expected["stream"]):
        said.append(f"stream: {len(found['stream'])} parts, expected {len(expected['stream'])}")
    pairs = zip(found["stream"], expected["stream"])
    streams = (difference(f"stream[{i}]", a, b) for i, (a, b) in enumerate(pairs))
    said.append(next((sentence for sentence in streams if sentence), None))
    for name, value in expected["losses"].items():
        said.append(difference(f"losses.{name}", found["losses"][name], value))
    for layer, value in enumerate(expected["layer_losses"]):
        said.append(difference(f"layer_losses[{layer}]", found["layer_losses"][layer], value))
    return [sentence for sentence in said if sentence]


# ---- Identities that hold without the program ----


def gate_only(branch):
    """A change of tensors that leaves one branch alone."""
    def change(name, value):
        if name == "gate.bias":
            return np.tile(np.where(np.arange(3) == branch, 50.0, -50.0), len(value) // 3)
        return 0.0 * value if name == "gate.weight" else value
    return change


def check_dense_limits(folder, spec):
    """A window over everything, or all blocks selected, is dense attention."""
    model = Model(write_model(folder / "model", spec))
    tokens = Case("", spec).tokens
    dense = reference.dense_stream(model, tokens)
    for branch, options in ((2, {"window": 50}), (1, {"selected_blocks": 7})):
        for gate in ("softmax", "sigmoid"):
            path = write_adapter(folder / f"{branch}{gate}", spec,
                                 {**OPTIONS, **options, "gate": gate}, gate_only(branch))
            stream = reference.adapted_stream(model, Adapter(path), tokens)
            np.testing.assert_allclose(stream, dense, rtol=0, atol=1e-9)


def check_later_tokens(folder, spec):
    """They change nothing, and earlier ones do."""
    model = Model(write_model(folder / "model", spec))
    options = {**OPTIONS, "sees_own_window": True, "compress_stride": 4}
    adapter = Adapter(write_adapter(folder / "adapter", spec, options))
    tokens = Case("", spec).tokens
    stream = reference.adapted_stream(model, adapter, tokens)
    for row in (1, 7, 8, 23, 49):
        other = tokens[:row] + [(token + 1) % spec.vocab for token in tokens[row:]]
        changed = reference.adapted_stream(model, adapter, other)
        np.testing.assert_allclose(changed[:, :row], stream[:, :row], rtol=0, atol=1e-12)
        assert np.abs(changed[:, row:] - stream[:, row:]).max(axis=2).min() > 1e-6


def check_windows_of_one(folder, spec):
    """Means of one token without positions: dense attention without rotation."""
    options = {**OPTIONS, "compress_block": 1, "compress_stride": 1, "sees_own_window": True,
               "key_compressor": "mean_pool", "value_compressor": "mean_pool", "memory_slots": 0}
    path = write_adapter(folder / "adapter", spec, options,
                         lambda name, value: 0.0 * value if "positions" in name else value)
    model, adapter = Model(write_model(folder / "model", spec)), Adapter(path)
    h = np.random.default_rng(1).normal(size=(20, spec.width))
    expected = dense_attention(0, *reference.queries_keys_values(model, adapter, 0, h))
    found = reference.branches(model, adapter, 0, h)[:, :, 0].transpose(1, 0, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def check_blocks():
    """Shared strides as the paper lists them; forced blocks, ties, and the row's own block."""
    options = {"compress_block": 32, "compress_stride": 16, "selection_block": 64,
               "selected_blocks": 4, "first_blocks": 1, "local_blocks": 2}
    shares = [reference.shared_strides(options, window, 3) for window in range(10, 18)]
    assert shares == [0, 1, 2, 2, 2, 1, 0, 0], shares
    weights = np.array([0.0, 0.1, 0.5, 0.5, 0.2, 0.0, 0.0])
    assert reference.selected_blocks(options, 64 * 7 - 1, weights) == [0, 2, 5, 6]
    assert reference.selected_blocks(options, 70, weights[:2]) == [0, 1]


def check_itself(folder):
    spec = Spec(seed=99, layers=2, heads=4, kv_heads=2, head_dim=16)
    check_blocks()
    check_dense_limits(folder / "limits", spec)
    check_later_tokens(folder / "later", spec)
    check_windows_of_one(folder / "one", spec)


def agrees(program, case, folder):
    model = write_model(folder / "model", case.spec)
    adapter = write_adapter(folder / "adapter", case.spec, {**OPTIONS, **case.options})
    expected = expected_result(Model(model), Adapter(adapter), case)
    try:
        said = differences(probe_result(program, model, adapter, case, folder), expected)
    except (IndexError, KeyError, ValueError, subprocess.TimeoutExpired) as error:
        said = [repr(error)]
    for sentence in said:
        print(f"FAIL {case.name}: {sentence}", flush=True)
    return not said


def main(arguments):
    wanted = arguments[1] if len(arguments) > 1 else ""
    failed = count = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        check_itself(folder / "itself")
        for case in cases() if arguments else ():
            if wanted in case.name:
                failed += not agrees(arguments[0], case, folder / f"case{count}")
                count += 1
    if failed or (arguments and not count):
        sys.exit(f"{failed} of {count} cases disagree")


if __name__ == "__main__":
    main(sys.argv[1:])
