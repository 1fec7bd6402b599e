"""Writes one random Llama in the layouts that users have: Meta, Hugging Face, llama2.c, GGUF.

As a program it makes a checkpoint of the shape of Llama 3.2 1B in Meta's layout, tensor by tensor:
    checkpoints.py --synthetic FOLDER [--layers N]
"""

import argparse
import dataclasses
import json
import pathlib
import struct
import zipfile

import numpy as np


@dataclasses.dataclass
class Shape:
    hidden: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 176  # int(8 · 64 / 3) rounded up to a multiple of 16
    multiple_of: int = 16
    ffn_dim_multiplier: float | None = None
    vocab: int = 300
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    context: int = 4096
    scaled_rope: bool = False
    tied: bool = False

    @property
    def head_dim(self):
        return self.hidden // self.heads

    @property
    def rope_factor(self):
        return 32.0 if self.layers in (16, 28) else 8.0


LLAMA_3_2_1B = Shape(hidden=2048, layers=16, heads=32, kv_heads=8, intermediate=8192,
                     multiple_of=256, ffn_dim_multiplier=1.5, vocab=128256, rope_theta=500000.0,
                     context=131072, scaled_rope=True, tied=True)


def tensor_shapes(shape):
    """Hugging Face name → dimensions."""
    names = {"model.embed_tokens.weight": (shape.vocab, shape.hidden)}
    for i in range(shape.layers):
        layer = f"model.layers.{i}."
        kv = shape.kv_heads * shape.head_dim
        names |= {
            layer + "input_layernorm.weight": (shape.hidden,),
            layer + "self_attn.q_proj.weight": (shape.hidden, shape.hidden),
            layer + "self_attn.k_proj.weight": (kv, shape.hidden),
            layer + "self_attn.v_proj.weight": (kv, shape.hidden),
            layer + "self_attn.o_proj.weight": (shape.hidden, shape.hidden),
            layer + "post_attention_layernorm.weight": (shape.hidden,),
            layer + "mlp.gate_proj.weight": (shape.intermediate, shape.hidden),
            layer + "mlp.up_proj.weight": (shape.intermediate, shape.hidden),
            layer + "mlp.down_proj.weight": (shape.hidden, shape.intermediate),
        }
    names["model.norm.weight"] = (shape.hidden,)
    if not shape.tied:
        names["lm_head.weight"] = (shape.vocab, shape.hidden)
    return names


def random_tensor(name, dimensions, seed):
    random = np.random.default_rng([seed, *name.encode()])
    if len(dimensions) == 1:
        return random.uniform(0.5, 1.5, dimensions).astype(np.float32)
    return (random.standard_normal(dimensions) / np.sqrt(dimensions[1])).astype(np.float32)


def random_model(shape, seed=1):
    return {name: random_tensor(name, dims, seed) for name, dims in tensor_shapes(shape).items()}


def config_json(shape):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context, "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta, "hidden_act": "silu",
        "tie_word_embeddings": shape.tied, "torch_dtype": "float32",
    }
    if shape.scaled_rope:
        config["rope_scaling"] = {
            "rope_type": "llama3", "factor": shape.rope_factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return config


# ---- Row order of q and k ------------------------------------------------------------------------

def neighbouring(matrix, head_dim):
    """From Hugging Face's half-split rows to pairs of neighbours (Meta, llama2.c, llama.cpp)."""
    heads = matrix.shape[0] // head_dim
    split = matrix.reshape(heads, 2, head_dim // 2, matrix.shape[1])
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(matrix.shape)


def in_their_order(name, matrix, shape):
    is_rotated = name.endswith(("q_proj.weight", "k_proj.weight"))
    return neighbouring(matrix, shape.head_dim) if is_rotated else matrix


# ---- Hugging Face --------------------------------------------------------------------------------

def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def write_hugging_face(folder, shape, model, shards=1, torch=False):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(shape)))
    stem, ending = ("pytorch_model", "bin") if torch else ("model", "safetensors")
    write = write_torch if torch else write_safetensors
    if shards == 1:
        write(folder / f"{stem}.{ending}", model)
        return folder
    weight_map = {}
    for shard in range(shards):
        name = f"{stem}-{shard + 1:05}-of-{shards:05}.{ending}"
        part = dict(list(model.items())[shard::shards])
        write(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    (folder / f"{stem}.{ending}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


# ---- PyTorch's zip with a pickle of protocol 2 ---------------------------------------------------

def pickled_string(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def pickled_integer(value):
    return b"J" + struct.pack("<i", value) if value < 2**31 else (
        b"\x8a\x08" + struct.pack("<q", value))


def pickled_tuple(values):
    return b"(" + b"".join(map(pickled_integer, values)) + b"t"


def pickled_tensor(key, storage, dimensions, elements):
    strides = [int(np.prod(dimensions[i + 1:])) for i in range(len(dimensions))]
    persistent = (b"(" + pickled_string("storage") + f"ctorch\n{storage}\n".encode()
                  + pickled_string(key) + pickled_string("cpu") + pickled_integer(elements) + b"tQ")
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + pickled_integer(0)
            + pickled_tuple(dimensions) + pickled_tuple(strides) + b"\x89"
            + b"ccollections\nOrderedDict\n)R" + b"tR")


def pickled_state_dict(dimensions, storage):
    body = b"".join(
        pickled_string(name) + pickled_tensor(str(key), storage, dims, int(np.prod(dims)))
        for key, (name, dims) in enumerate(dimensions.items()))
    return b"\x80\x02}(" + body + b"u."


def write_torch(path, tensors, storage="FloatStorage", dimensions=None):
    """`tensors`: name → array, or a function from name to bytes when `dimensions` are given."""
    if dimensions is None:
        dimensions = {name: tensor.shape for name, tensor in tensors.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled_state_dict(dimensions, storage))
        archive.writestr("archive/byteorder", "little")
        for key, name in enumerate(dimensions):
            with archive.open(f"archive/data/{key}", "w", force_zip64=True) as entry:
                entry.write(tensors(name) if callable(tensors) else tensors[name].tobytes())
        archive.writestr("archive/version", "3\n")


# ---- Meta ----------------------------------------------------------------------------------------

META_LAYER = {
    "input_layernorm": "attention_norm", "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2"}
META_OUTER = {"model.embed_tokens.weight": "tok_embeddings.weight",
              "model.norm.weight": "norm.weight", "lm_head.weight": "output.weight"}
JOINED_BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")


def meta_name(name):
    if name in META_OUTER:
        return META_OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    return f"layers.{layer}.{META_LAYER[rest.removesuffix('.weight')]}.weight"


def params_json(shape):
    params = {"dim": shape.hidden, "n_layers": shape.layers, "n_heads": shape.heads,
              "n_kv_heads": shape.kv_heads, "vocab_size": shape.vocab,
              "multiple_of": shape.multiple_of, "norm_eps": shape.norm_eps,
              "rope_theta": shape.rope_theta}
    if shape.ffn_dim_multiplier is not None:
        params["ffn_dim_multiplier"] = shape.ffn_dim_multiplier
    if shape.scaled_rope:
        params["use_scaled_rope"] = True
    return params


def meta_shard(name, matrix, shard, shards, embedding_axis):
    if matrix.ndim == 1:
        return matrix
    axis = 1 if name.endswith(JOINED_BY_COLUMNS) else 0
    if name == "tok_embeddings.weight":
        axis = embedding_axis
    return np.ascontiguousarray(np.split(matrix, shards, axis)[shard])


def write_meta(folder, shape, model, shards=1, embedding_axis=0):
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params_json(shape)))
    theirs = {meta_name(name): in_their_order(name, tensor, shape)
              for name, tensor in model.items()}
    for shard in range(shards):
        write_torch(folder / f"consolidated.{shard:02}.pth",
                    {name: meta_shard(name, tensor, shard, shards, embedding_axis)
                     for name, tensor in theirs.items()})
    return folder


def write_large_meta(folder, shape):
    """bf16, never more than one tensor in memory."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params_json(shape)))
    dimensions = {meta_name(name): dims for name, dims in tensor_shapes(shape).items()}

    def values(name):
        tensor = random_tensor(name, dimensions[name], seed=1)
        return (tensor.view(np.uint32) >> 16).astype(np.uint16).tobytes()

    write_torch(folder / "consolidated.00.pth", values, "BFloat16Storage", dimensions)


# ---- llama2.c, version 1 -------------------------------------------------------------------------

def write_llama2c(path, shape, model):
    def of_layers(kind):
        names = [f"model.layers.{i}.{kind}.weight" for i in range(shape.layers)]
        return [in_their_order(name, model[name], shape) for name in names]

    order = [*of_layers("input_layernorm"), *of_layers("post_attention_layernorm"),
             model["model.norm.weight"], model["model.embed_tokens.weight"]]
    for kind in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                 "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"):
        order += of_layers(kind)
    if not shape.tied:
        order.append(model["lm_head.weight"])
    header = struct.pack("<I8iB", 0x616b3432, 1, shape.hidden, shape.intermediate, shape.layers,
                         shape.heads, shape.kv_heads, shape.vocab, shape.context, shape.tied)
    path.write_bytes(header.ljust(256, b"\0") + b"".join(tensor.tobytes() for tensor in order))
    write_llama2c_tokenizer(path.with_name("tokenizer.bin"), shape.vocab)
    return path


def write_llama2c_tokenizer(path, size):
    tokens = [b"<unk>", b"\n<s>\n", b"\n</s>\n"]
    tokens += [b"<0x%02X>" % byte for byte in range(256)]
    tokens += [chr(0x100 + i).encode() for i in range(size - len(tokens))]
    path.write_bytes(struct.pack("<i", max(map(len, tokens))) + b"".join(
        struct.pack("<fi", 0.0, len(token)) + token for token in tokens))


# ---- GGUF v3, F32 --------------------------------------------------------------------------------

GGUF_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down"}
GGUF_OUTER = {"model.embed_tokens.weight": "token_embd.weight",
              "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
GGUF_ALIGNMENT = 32


def gguf_name(name):
    if name in GGUF_OUTER:
        return GGUF_OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_LAYER[rest.removesuffix('.weight')]}.weight"


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(value):
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kind = {str: 8, float: 6, int: 5}[type(value[0])]
    packed = b"".join(gguf_string(v) if kind == 8 else struct.pack("<f" if kind == 6 else "<i", v)
                      for v in value)
    return struct.pack("<IIQ", 9, kind, len(value)) + packed


def gguf_vocabulary(shape):
    """A SentencePiece-like list: unk, bos, eos, then single characters."""
    tokens = ["<unk>", "<s>", "</s>"] + [chr(0x100 + i) for i in range(shape.vocab - 3)]
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * shape.vocab,
            "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (shape.vocab - 3),
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}


def rope_divisors(shape):
    """What llama.cpp stores as rope_freqs.weight for llama3 scaling."""
    low, high, original = 1.0, 4.0, 8192
    divisors = []
    for p in range(shape.head_dim // 2):
        wavelength = 2 * np.pi * shape.rope_theta ** (2 * p / shape.head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(shape.rope_factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / shape.rope_factor + smooth))
    return np.array(divisors, np.float32)


def write_gguf(path, shape, model):
    metadata = {
        "general.architecture": "llama", "general.alignment": GGUF_ALIGNMENT,
        "llama.block_count": shape.layers, "llama.embedding_length": shape.hidden,
        "llama.feed_forward_length": shape.intermediate, "llama.context_length": shape.context,
        "llama.attention.head_count": shape.heads, "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": shape.norm_eps,
        "llama.rope.freq_base": shape.rope_theta, "llama.rope.dimension_count": shape.head_dim,
    } | gguf_vocabulary(shape)
    tensors = {gguf_name(name): in_their_order(name, tensor, shape)
               for name, tensor in model.items()}
    if shape.scaled_rope:
        tensors["rope_freqs.weight"] = rope_divisors(shape)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(gguf_string(key) + gguf_value(value) for key, value in metadata.items())
    data = b""
    for name, tensor in tensors.items():
        dims = tensor.shape[::-1]
        head += gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(data))
        data += tensor.tobytes() + b"\0" * (-tensor.nbytes % GGUF_ALIGNMENT)
    path.write_bytes(head + b"\0" * (-len(head) % GGUF_ALIGNMENT) + data)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--synthetic", type=pathlib.Path, required=True, metavar="FOLDER")
    parser.add_argument("--layers", type=int, default=LLAMA_3_2_1B.layers)
    arguments = parser.parse_args()
    write_large_meta(arguments.synthetic,
                     dataclasses.replace(LLAMA_3_2_1B, layers=arguments.layers))


if __name__ == "__main__":
    main()
