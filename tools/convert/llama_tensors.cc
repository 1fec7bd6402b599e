#include "tools/convert/llama_tensors.h"

#include "absl/strings/str_cat.h"

namespace kascade::convert {

std::vector<LlamaTensor> llama_tensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden;
  const int64_t ffn = config.intermediate;
  const int64_t vocab = config.vocab;
  const int64_t q_dim = config.q_dim();
  const int64_t kv_dim = config.kv_dim();
  const std::vector<LlamaTensor> layer_tensors = {
      {"input_layernorm.weight", "attention_norm.weight", {hidden}, Division::kCopies, false},
      {"self_attn.q_proj.weight", "attention.wq.weight", {q_dim, hidden}, Division::kRows, true},
      {"self_attn.k_proj.weight", "attention.wk.weight", {kv_dim, hidden}, Division::kRows, true},
      {"self_attn.v_proj.weight", "attention.wv.weight", {kv_dim, hidden}, Division::kRows, false},
      {"self_attn.o_proj.weight",
       "attention.wo.weight",
       {hidden, q_dim},
       Division::kColumns,
       false},
      {"post_attention_layernorm.weight", "ffn_norm.weight", {hidden}, Division::kCopies, false},
      {"mlp.gate_proj.weight", "feed_forward.w1.weight", {ffn, hidden}, Division::kRows, false},
      {"mlp.up_proj.weight", "feed_forward.w3.weight", {ffn, hidden}, Division::kRows, false},
      {"mlp.down_proj.weight", "feed_forward.w2.weight", {hidden, ffn}, Division::kColumns, false},
  };
  std::vector<LlamaTensor> result = {
      {kEmbeddingName, "tok_embeddings.weight", {vocab, hidden}, Division::kVocabulary, false}};
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    for (LlamaTensor tensor : layer_tensors) {
      tensor.name = absl::StrCat("model.layers.", layer, ".", tensor.name);
      tensor.meta_name = absl::StrCat("layers.", layer, ".", tensor.meta_name);
      result.push_back(std::move(tensor));
    }
  }
  result.push_back({"model.norm.weight", "norm.weight", {hidden}, Division::kCopies, false});
  result.push_back({kHeadName, "output.weight", {vocab, hidden}, Division::kRows, false});
  return result;
}

}  // namespace kascade::convert
