"""Model folders in Hugging Face's form: writes them, and reads those that it has written."""

import json
import os
import struct

import numpy as np
import torch

from .model import NORM_EPSILON, Shape
from .tokenizer import BOS, BOS_NAME


def tensors(shape, parameters):
    """Hugging Face's names and matrices, as views of the stacked parameters."""
    found = {"model.embed_tokens.weight": parameters["embedding"],
             "model.norm.weight": parameters["final_norm"]}
    for layer in range(shape.layers):
        p = {name: parameters[name][layer] for name in parameters
             if name not in ("embedding", "final_norm")}
        q, k, v = p["qkv"].split(shape.qkv_parts)
        gate, up = p["gate_up"].split(shape.ffn)
        names = {"input_layernorm": p["attention_norm"], "post_attention_layernorm": p["ffn_norm"],
                 "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
                 "self_attn.o_proj": p["output"], "mlp.gate_proj": gate, "mlp.up_proj": up,
                 "mlp.down_proj": p["down"]}
        found.update({f"model.layers.{layer}.{name}.weight": t for name, t in names.items()})
    return found


def write_safetensors(path, named):
    """bf16, in the order of the names."""
    header, blobs, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name in sorted(named):
        value = named[name].detach().cpu().to(torch.bfloat16).contiguous()
        blob = value.view(torch.int16).numpy().tobytes()
        header[name] = {"dtype": "BF16", "shape": list(value.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    """{name: f32 tensor} of a file of bf16 tensors."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            bits = np.frombuffer(data[first:last], np.uint16).astype(np.uint32) << 16
            found[name] = torch.from_numpy(bits.view(np.float32).reshape(entry["shape"]))
    return found


def write_json(folder, name, content):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")


def write_model(folder, shape, parameters, tokenizer):
    """A folder with weights, tokenizer and configurations."""
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors(shape, parameters))
    write_json(folder, "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "vocab_size": shape.vocabulary, "hidden_size": shape.width,
        "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim, "hidden_act": "silu", "rms_norm_eps": NORM_EPSILON,
        "rope_theta": shape.theta, "rope_scaling": None,
        "max_position_embeddings": shape.context, "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "initializer_range": 0.02, "bos_token_id": BOS, "eos_token_id": BOS, "pretraining_tp": 1,
        "torch_dtype": "bfloat16", "use_cache": True})
    write_json(folder, "generation_config.json",
               {"bos_token_id": BOS, "eos_token_id": BOS, "do_sample": False})
    write_json(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS_NAME,
        "eos_token": BOS_NAME, "add_bos_token": True, "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context})
    write_json(folder, "tokenizer.json", tokenizer_json(tokenizer))


def tokenizer_json(tokenizer):
    """Byte-level BPE that puts BOS in front of every text."""
    vocabulary = {BOS_NAME: BOS, **{tokenizer.name(i): i for i in range(1, tokenizer.size)}}
    if len(vocabulary) != tokenizer.size:
        raise ValueError(f"{tokenizer.size - len(vocabulary)} tokens have the bytes of another")
    bos = {"SpecialToken": {"id": BOS_NAME, "type_id": 0}}
    second_bos = {"SpecialToken": {"id": BOS_NAME, "type_id": 1}}
    text, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": BOS, "content": BOS_NAME, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, text],
            "pair": [bos, text, second_bos, second],
            "special_tokens": {BOS_NAME: {"id": BOS_NAME, "ids": [BOS], "tokens": [BOS_NAME]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary,
                  "merges": [f"{tokenizer.name(a)} {tokenizer.name(b)}"
                             for a, b in tokenizer.merges]}}


def read_model(folder):
    """Shape and stacked f32 parameters of a model folder with tied embeddings."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    shape = Shape(
        layers=config["num_hidden_layers"], width=config["hidden_size"],
        kv_heads=config["num_key_value_heads"],
        group=config["num_attention_heads"] // config["num_key_value_heads"],
        head_dim=config["head_dim"], ffn=config["intermediate_size"],
        vocabulary=config["vocab_size"], theta=config["rope_theta"],
        context=config["max_position_embeddings"])
    named = read_safetensors(os.path.join(folder, "model.safetensors"))

    def stacked(*parts):
        return torch.stack([torch.cat([named[f"model.layers.{layer}.{part}.weight"]
                                       for part in parts]) for layer in range(shape.layers)])

    return shape, {
        "embedding": named["model.embed_tokens.weight"],
        "qkv": stacked("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "output": stacked("self_attn.o_proj"),
        "gate_up": stacked("mlp.gate_proj", "mlp.up_proj"), "down": stacked("mlp.down_proj"),
        "attention_norm": stacked("input_layernorm"),
        "ffn_norm": stacked("post_attention_layernorm"),
        "final_norm": named["model.norm.weight"]}
