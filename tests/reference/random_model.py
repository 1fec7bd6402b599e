"""Writes small random model folders (config.json, model.safetensors, byte-level tokenizer.json).

Attention is peaked, not uniform: the logits have a standard deviation of about `sharpness`.
Also usable alone: random_model.py FOLDER [name=value …] with the fields of Spec.
"""

import json
import pathlib
import sys
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

SHARD_BYTES = 1 << 18  # of a sharded model


@dataclass(frozen=True)
class Spec:
    seed: int = 0
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    width: int = 32
    mlp: int = 48
    vocab: int = 257
    context: int = 2048
    theta: float = 10000.0
    sharpness: float = 3.0
    dtype: str = "F32"  # or BF16
    tied: bool = False
    sharded: bool = False
    positions: bool = True  # False: keys do not depend on positions, so that equal tokens tie
    family: str = "llama"  # model_type of config.json
    bias: bool = False  # attention_bias, of the families that have the key
    window: int = 0  # sliding_window, of the families that have one; 0: null
    rope: tuple = ()  # items of the object rope_scaling
    zero_heads: tuple = ()  # KV heads whose query rows are zero: all keys tie


ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "granite": "GraniteForCausalLM", "phi3": "Phi3ForCausalLM"}


def family_keys(spec):
    """The keys of config.json that only some families have."""
    keys = {}
    if spec.family in ("llama", "qwen3"):
        keys["attention_bias"] = spec.bias
    if spec.family == "qwen2":
        keys.update(use_sliding_window=False, sliding_window=7, max_window_layers=1)
    if spec.family in ("mistral", "phi3"):
        keys["sliding_window"] = spec.window or None
    if spec.family == "granite":
        keys.update(embedding_multiplier=3.0, attention_multiplier=0.5 * spec.head_dim ** -0.5,
                    residual_multiplier=0.3, logits_scaling=2.5)
    return keys


def config_of(spec):
    scaling = dict(spec.rope) or None
    if not spec.positions:
        scaling = {
            "rope_type": "llama3",
            "factor": 1e6,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1,
        }
    return {
        "architectures": [ARCHITECTURES[spec.family]],
        "model_type": spec.family,
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": spec.theta,
        "rope_scaling": scaling,
        "max_position_embeddings": spec.context,
        "tie_word_embeddings": spec.tied,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32" if spec.dtype == "F32" else "bfloat16",
        **family_keys(spec),
    }


def slowest_component(weights, spec):
    """Keeps one row of each head: half of the pair that turns so slowly that it stands still."""
    heads = np.zeros((weights.shape[0] // spec.head_dim, spec.head_dim, weights.shape[1]))
    slowest = spec.head_dim // 2 - 1
    heads[:, slowest] = weights.reshape(heads.shape)[:, slowest] * spec.head_dim ** 0.25
    return heads.reshape(weights.shape)


def layer_weights(rng, spec):
    """{short name: [out, in]} of one layer."""

    def matrix(rows, columns, scale):
        return rng.normal(0.0, scale / np.sqrt(columns), (rows, columns))

    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    q = matrix(queries, spec.width, np.sqrt(spec.sharpness))
    shared = spec.heads // spec.kv_heads * spec.head_dim
    for head in spec.zero_heads:
        q[head * shared:(head + 1) * shared] = 0.0
    k = matrix(keys, spec.width, np.sqrt(spec.sharpness))
    if not spec.positions:
        q, k = slowest_component(q, spec), slowest_component(k, spec)
    return {
        "input_layernorm": 1.0 + 0.1 * rng.normal(size=spec.width),
        "post_attention_layernorm": 1.0 + 0.1 * rng.normal(size=spec.width),
        "self_attn.q_proj": q,
        "self_attn.k_proj": k,
        "self_attn.v_proj": matrix(keys, spec.width, 1.0),
        "self_attn.o_proj": matrix(spec.width, queries, 0.7),
        "mlp.gate_proj": matrix(spec.mlp, spec.width, 1.0),
        "mlp.up_proj": matrix(spec.mlp, spec.width, 1.0),
        "mlp.down_proj": matrix(spec.width, spec.mlp, 0.7),
    }


def added_vectors(spec):
    """{short name: vector} of what a layer has besides the tensors of a plain Llama."""
    rng = np.random.default_rng(spec.seed + 1000)
    queries, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    vectors = {}
    if spec.family == "qwen2" or spec.bias:
        for name, size in (("q", queries), ("k", keys), ("v", keys)):
            vectors[f"self_attn.{name}_proj.bias"] = rng.normal(0.0, 0.5, size)
    if spec.bias:
        vectors["self_attn.o_proj.bias"] = rng.normal(0.0, 0.3, spec.width)
    if spec.family == "qwen3":
        for name in ("q", "k"):
            vectors[f"self_attn.{name}_norm.weight"] = 1.0 + 0.3 * rng.normal(size=spec.head_dim)
    return vectors


def joined(matrices):
    """The projections of a layer as Phi-3 stores them."""
    parts = [matrices.pop(f"self_attn.{name}_proj") for name in "qkv"]
    matrices["self_attn.qkv_proj"] = np.concatenate(parts)
    parts = [matrices.pop(f"mlp.{name}_proj") for name in ("gate", "up")]
    matrices["mlp.gate_up_proj"] = np.concatenate(parts)
    return matrices


def weights_of(spec):
    """All tensors by their Hugging Face names."""
    rng = np.random.default_rng(spec.seed)
    tensors = {"model.embed_tokens.weight": rng.normal(size=(spec.vocab, spec.width))}
    for index in range(spec.layers):
        matrices = layer_weights(rng, spec)
        if spec.family == "phi3":
            matrices = joined(matrices)
        for name, value in matrices.items():
            tensors[f"model.layers.{index}.{name}.weight"] = value
        for name, value in added_vectors(replace(spec, seed=spec.seed + index)).items():
            tensors[f"model.layers.{index}.{name}"] = value
    tensors["model.norm.weight"] = 1.0 + 0.1 * rng.normal(size=spec.width)
    if not spec.tied:
        tensors["lm_head.weight"] = rng.normal(0, spec.width ** -0.5, (spec.vocab, spec.width))
    return tensors


def encode(values, dtype):
    """float64 array -> bytes, rounded to nearest even."""
    single = values.astype("<f4")
    if dtype == "F32":
        return single.tobytes()
    bits = single.view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype("<u2").tobytes()


def write_safetensors(path, tensors, dtype):
    header, blobs, offset = {}, [], 0
    for name, value in tensors.items():
        blob = encode(value, dtype)
        end = offset + len(blob)
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [offset, end]}
        blobs.append(blob)
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))


def write_sharded(folder, tensors, dtype):
    shards, size = [{}], 0
    for name, value in tensors.items():
        if size > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.size * 4
    weight_map = {}
    for number, shard in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard, dtype)
        weight_map.update({name: file for name in shard})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def byte_symbols():
    """The printable character that byte-level BPE uses for each byte."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    symbols = {byte: chr(byte) for byte in visible}
    symbols.update({byte: chr(256 + i) for i, byte in enumerate(hidden)})
    return [symbols[byte] for byte in range(256)]


def tokenizer():
    """Token 0 ends a text, token 1 + b is byte b; no merges."""
    end = "<|endoftext|>"
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    vocab = {end: 0, **{symbol: 1 + byte for byte, symbol in enumerate(byte_symbols())}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 0, "content": end, "special": True, **flags}],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": []},
    }


def write_model(folder, spec):
    """Writes the folder of `spec`; equal specs give equal bytes."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(spec), indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    bound = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>",
             "eos_token": "<|endoftext|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(bound))
    (folder / "generation_config.json").write_text('{"bos_token_id": 0, "eos_token_id": 0}')
    if spec.sharded:
        write_sharded(folder, weights_of(spec), spec.dtype)
    else:
        write_safetensors(folder / "model.safetensors", weights_of(spec), spec.dtype)
    return folder


def tuple_or_value(value):
    return tuple(value) if isinstance(value, list) else value


def main(arguments):
    given = dict(argument.split("=", 1) for argument in arguments[1:])
    defaults = asdict(Spec())
    known = {field.name for field in fields(Spec)}
    if not arguments or set(given) - known:
        sys.exit(__doc__)
    values = {name: json.loads(text) if not isinstance(defaults[name], str) else text
              for name, text in given.items()}
    for name in ("rope", "zero_heads"):
        values[name] = tuple(map(tuple_or_value, values.get(name, ())))
    write_model(arguments[0], Spec(**values))


if __name__ == "__main__":
    main(sys.argv[1:])
