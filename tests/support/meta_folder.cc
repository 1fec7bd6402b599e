#include "tests/support/meta_folder.h"

#include <cstdio>
#include <string>
#include <utility>

namespace kascade::testing {
namespace {

std::string meta_name(std::string name) {
  static const std::vector<std::pair<std::string, std::string>> kNames = {
      {"model.layers.", "layers."},
      {"self_attn.q_proj", "attention.wq"},
      {"self_attn.k_proj", "attention.wk"},
      {"self_attn.v_proj", "attention.wv"},
      {"self_attn.o_proj", "attention.wo"},
      {"mlp.gate_proj", "feed_forward.w1"},
      {"mlp.down_proj", "feed_forward.w2"},
      {"mlp.up_proj", "feed_forward.w3"},
      {"input_layernorm", "attention_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"model.embed_tokens", "tok_embeddings"},
      {"model.norm", "norm"},
      {"lm_head", "output"},
  };
  for (const auto& [ours, meta] : kNames) {
    const size_t place = name.find(ours);
    if (place != name.npos) name.replace(place, ours.size(), meta);
  }
  return name;
}

// Bytes of a row of a matrix.
size_t row_bytes(const RawTensor& tensor) {
  return tensor.bytes.size() / static_cast<size_t>(tensor.shape[0]);
}

// Component c of pair p of a head lies at 2p + c in Meta's files, at c · d/2 + p in Hugging Face's.
void to_neighbouring_rows(RawTensor& tensor, size_t head_dim) {
  const size_t bytes = row_bytes(tensor);
  const std::string half_split = tensor.bytes;
  for (size_t head = 0; head < static_cast<size_t>(tensor.shape[0]); head += head_dim) {
    for (size_t pair = 0; pair < head_dim / 2; ++pair) {
      for (size_t c = 0; c < 2; ++c) {
        const size_t ours = head + c * head_dim / 2 + pair;
        const size_t meta = head + 2 * pair + c;
        tensor.bytes.replace(meta * bytes, bytes, half_split, ours * bytes, bytes);
      }
    }
  }
}

RawTensor rows_of(const RawTensor& tensor, int shard, int shards) {
  RawTensor part = tensor;
  part.shape[0] /= shards;
  const size_t bytes = tensor.bytes.size() / static_cast<size_t>(shards);
  part.bytes = tensor.bytes.substr(static_cast<size_t>(shard) * bytes, bytes);
  return part;
}

RawTensor columns_of(const RawTensor& tensor, int shard, int shards) {
  RawTensor part = tensor;
  part.shape[1] /= shards;
  part.bytes.clear();
  const size_t bytes = row_bytes(tensor) / static_cast<size_t>(shards);
  for (size_t row = 0; row < static_cast<size_t>(tensor.shape[0]); ++row) {
    const size_t begin = row * row_bytes(tensor) + static_cast<size_t>(shard) * bytes;
    part.bytes += tensor.bytes.substr(begin, bytes);
  }
  return part;
}

RawTensor part_of(const RawTensor& tensor, int shard, const MetaFolder& folder) {
  if (tensor.shape.size() == 1) return tensor;
  const bool by_columns = tensor.name.ends_with("wo.weight") ||
                          tensor.name.ends_with("w2.weight") ||
                          (tensor.name == "tok_embeddings.weight" && folder.embedding_by_columns);
  return by_columns ? columns_of(tensor, shard, folder.shards)
                    : rows_of(tensor, shard, folder.shards);
}

}  // namespace

nlohmann::json meta_params(const TinyModel& model) {
  return {{"dim", model.hidden},
          {"n_layers", model.layers},
          {"n_heads", model.heads},
          {"n_kv_heads", model.kv_heads},
          {"vocab_size", model.vocab},
          {"ffn_dim_multiplier", 0.75},
          {"multiple_of", 64},
          {"norm_eps", 1e-5},
          {"rope_theta", model.rope_theta}};
}

std::vector<RawTensor> meta_tensors(const TinyModel& model) {
  std::vector<RawTensor> tensors = tiny_tensors(model);
  for (RawTensor& tensor : tensors) {
    tensor.name = meta_name(tensor.name);
    if (tensor.name.ends_with("wq.weight") || tensor.name.ends_with("wk.weight")) {
      to_neighbouring_rows(tensor, static_cast<size_t>(model.head_dim));
    }
  }
  return tensors;
}

std::filesystem::path write_meta_folder(const TinyModel& model, const MetaFolder& folder,
                                        const std::filesystem::path& directory) {
  std::filesystem::create_directories(directory);
  const nlohmann::json params = folder.params.is_null() ? meta_params(model) : folder.params;
  write_file(directory / "params.json", params.dump());
  for (int shard = 0; shard < folder.shards; ++shard) {
    std::vector<RawTensor> parts;
    for (const RawTensor& tensor : meta_tensors(model)) {
      parts.push_back(part_of(tensor, shard, folder));
    }
    if (folder.edit) folder.edit(shard, parts);
    char name[32];
    std::snprintf(name, sizeof(name), "consolidated.%02d.pth", shard);
    write_file(directory / name, torch_bytes(parts, folder.form));
  }
  return directory;
}

}  // namespace kascade::testing
