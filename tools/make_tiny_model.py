#!/usr/bin/env python3
"""Makes models/tiny: a Llama with 115,008 random weights, for fast work on a CPU.

It has 2 layers, width 64, 2 query and 2 key-value heads of 32, a feed-forward width of 128, untied
embeddings and a vocabulary of 256, one token for each byte. The weights follow from the seed alone,
by integer arithmetic, so that every machine writes the same files.

usage: tools/make_tiny_model.py FOLDER [--seed N]
"""

import argparse
import json
import pathlib
import struct

LAYERS, WIDTH, HEADS, HEAD_DIM, FEED_FORWARD, VOCABULARY = 2, 64, 2, 32, 128, 256
CONTEXT = 2048
MASK = (1 << 64) - 1


def splitmix64(state):
    """Yields 64-bit random integers: Steele, Lea and Flood, "Fast splittable pseudorandom number
    generators", 2014."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        yield mixed ^ (mixed >> 31)


def shapes():
    """The names and shapes of the weights, as Hugging Face's LlamaForCausalLM names them."""
    yield "model.embed_tokens.weight", (VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (WIDTH,)
        for name in ("q_proj", "k_proj", "v_proj"):
            yield prefix + f"self_attn.{name}.weight", (HEADS * HEAD_DIM, WIDTH)
        yield prefix + "self_attn.o_proj.weight", (WIDTH, HEADS * HEAD_DIM)
        yield prefix + "post_attention_layernorm.weight", (WIDTH,)
        yield prefix + "mlp.gate_proj.weight", (FEED_FORWARD, WIDTH)
        yield prefix + "mlp.up_proj.weight", (FEED_FORWARD, WIDTH)
        yield prefix + "mlp.down_proj.weight", (WIDTH, FEED_FORWARD)
    yield "model.norm.weight", (WIDTH,)
    yield "lm_head.weight", (VOCABULARY, WIDTH)


def scale_of(name):
    """A power of two, so that scaled values are exact. Queries and keys are large enough for heads
    to prefer some keys to others, as those of trained models do."""
    if "q_proj" in name or "k_proj" in name:
        return 0.5
    return 0.25 if "embed" in name else 0.125


def values(name, count, random):
    """Ones for the norms, else numbers spread evenly over (-scale, scale), exact in f32."""
    if name.endswith("norm.weight"):
        return [1.0] * count
    return [(2 * (next(random) >> 41) + 1 - (1 << 23)) / (1 << 23) * scale_of(name)
            for _ in range(count)]


def safetensors(seed):
    """The bytes of model.safetensors, f32."""
    random = splitmix64(seed)
    header, data = {"__metadata__": {"format": "pt", "seed": str(seed)}}, bytearray()
    for name, shape in shapes():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        begin = len(data)
        data += struct.pack(f"<{count}f", *values(name, count, random))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data)


def byte_letters():
    """The letter by which byte-level BPE writes each byte: itself where it is printable."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    letters = {byte: chr(byte) for byte in printable}
    letters.update((byte, chr(0x100 + place)) for place, byte in enumerate(others))
    return letters


def tokenizer():
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    letters = byte_letters()
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False,
                  "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []}}


def config():
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
        "hidden_size": WIDTH, "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HEAD_DIM,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT, "tie_word_embeddings": False,
        "attention_bias": False, "mlp_bias": False, "bos_token_id": None, "eos_token_id": None,
        "torch_dtype": "float32"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "model.safetensors").write_bytes(safetensors(options.seed))
    for name, content in (("config.json", config()), ("tokenizer.json", tokenizer())):
        text = json.dumps(content, indent=1) + "\n"
        (options.folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
