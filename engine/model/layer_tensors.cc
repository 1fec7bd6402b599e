#include "engine/model/layer_tensors.h"

#include <utility>

namespace kascade {
namespace {

using L = LayerTensors;

// Lists the tensors of a layer in the order of their computation.
class Table {
 public:
  void vector(const char* name, Tensor L::* field, int64_t size) {
    tensors_.push_back({name, {size}, {{field, 1}}});
  }
  void matrix(const char* name, std::vector<StoredPart> parts, int64_t cols) {
    int64_t rows = 0;
    for (const StoredPart& part : parts) rows += part.rows;
    tensors_.push_back({name, {rows, cols}, std::move(parts)});
  }
  std::vector<StoredLayerTensor> take() { return std::move(tensors_); }

 private:
  std::vector<StoredLayerTensor> tensors_;
};

void add_projections(const ModelConfig& c, Table& table) {
  const int32_t q = c.q_dim(), kv = c.kv_dim();
  if (c.fused_projections) {
    table.matrix("self_attn.qkv_proj.weight", {{&L::q, q}, {&L::k, kv}, {&L::v, kv}}, c.hidden);
  } else {
    table.matrix("self_attn.q_proj.weight", {{&L::q, q}}, c.hidden);
    table.matrix("self_attn.k_proj.weight", {{&L::k, kv}}, c.hidden);
    table.matrix("self_attn.v_proj.weight", {{&L::v, kv}}, c.hidden);
  }
  if (c.qkv_bias) {
    table.vector("self_attn.q_proj.bias", &L::q_bias, q);
    table.vector("self_attn.k_proj.bias", &L::k_bias, kv);
    table.vector("self_attn.v_proj.bias", &L::v_bias, kv);
  }
  if (c.head_norms) {
    table.vector("self_attn.q_norm.weight", &L::q_norm, c.head_dim);
    table.vector("self_attn.k_norm.weight", &L::k_norm, c.head_dim);
  }
}

}  // namespace

std::vector<StoredLayerTensor> stored_layer_tensors(const ModelConfig& c) {
  const int32_t ffn = c.intermediate;
  Table table;
  table.vector("input_layernorm.weight", &L::attention_norm, c.hidden);
  add_projections(c, table);
  table.matrix("self_attn.o_proj.weight", {{&L::o, c.hidden}}, c.q_dim());
  if (c.attention_out_bias) table.vector("self_attn.o_proj.bias", &L::o_bias, c.hidden);
  table.vector("post_attention_layernorm.weight", &L::ffn_norm, c.hidden);
  if (c.fused_projections) {
    table.matrix("mlp.gate_up_proj.weight", {{&L::gate, ffn}, {&L::up, ffn}}, c.hidden);
  } else {
    table.matrix("mlp.gate_proj.weight", {{&L::gate, ffn}}, c.hidden);
    table.matrix("mlp.up_proj.weight", {{&L::up, ffn}}, c.hidden);
  }
  table.matrix("mlp.down_proj.weight", {{&L::down, c.hidden}}, ffn);
  return table.take();
}

}  // namespace kascade
