#include "tools/convert/model_tensors.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/model/layer_tensors.h"

namespace kascade::convert {
namespace {

// Meta's form of a layer's tensor.
struct MetaForm {
  const char* name;
  Division division;
  bool is_rotated;
};

const std::map<std::string, MetaForm>& meta_forms() {
  static const std::map<std::string, MetaForm> kForms = {
      {"input_layernorm.weight", {"attention_norm.weight", Division::kCopies, false}},
      {"self_attn.q_proj.weight", {"attention.wq.weight", Division::kRows, true}},
      {"self_attn.k_proj.weight", {"attention.wk.weight", Division::kRows, true}},
      {"self_attn.v_proj.weight", {"attention.wv.weight", Division::kRows, false}},
      {"self_attn.o_proj.weight", {"attention.wo.weight", Division::kColumns, false}},
      {"post_attention_layernorm.weight", {"ffn_norm.weight", Division::kCopies, false}},
      {"mlp.gate_proj.weight", {"feed_forward.w1.weight", Division::kRows, false}},
      {"mlp.up_proj.weight", {"feed_forward.w3.weight", Division::kRows, false}},
      {"mlp.down_proj.weight", {"feed_forward.w2.weight", Division::kColumns, false}}};
  return kForms;
}

}  // namespace

std::vector<ModelTensor> model_tensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden;
  const int64_t vocab = config.vocab;
  const std::vector<StoredLayerTensor> table = stored_layer_tensors(config);
  std::vector<ModelTensor> result = {
      {kEmbeddingName, "tok_embeddings.weight", {vocab, hidden}, Division::kVocabulary, false}};
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    for (const StoredLayerTensor& stored : table) {
      ModelTensor tensor{.name = absl::StrCat("model.layers.", layer, ".", stored.name),
                         .shape = stored.shape};
      const auto meta = meta_forms().find(stored.name);
      if (meta != meta_forms().end()) {
        tensor.meta_name = absl::StrCat("layers.", layer, ".", meta->second.name);
        tensor.division = meta->second.division;
        tensor.is_rotated = meta->second.is_rotated;
      }
      result.push_back(std::move(tensor));
    }
  }
  result.push_back({"model.norm.weight", "norm.weight", {hidden}, Division::kCopies, false});
  result.push_back({kHeadName, "output.weight", {vocab, hidden}, Division::kRows, false});
  return result;
}

}  // namespace kascade::convert
