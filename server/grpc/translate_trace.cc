#include "server/grpc/translate_trace.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/grpc/message_size.h"
#include "server/grpc/translate_attention.h"
#include "server/grpc/translate_generate.h"

namespace kascade::server {
namespace {

absl::StatusOr<core::Prompt> read_input(const v1::TraceRequest& in) {
  if (in.has_text()) return core::TextPrompt{in.text()};
  if (in.has_token_ids()) return core::TokenPrompt{span_of(in.token_ids().ids())};
  return invalid_field("input", "text or token_ids must be set");
}

v1::TracedLayerKind to_proto(LayerKind kind) {
  switch (kind) {
    case LayerKind::kDense:
      return v1::TRACED_LAYER_KIND_DENSE;
    case LayerKind::kSelecting:
      return v1::TRACED_LAYER_KIND_ANCHOR;
    case LayerKind::kReusing:
      return v1::TRACED_LAYER_KIND_REUSE;
    case LayerKind::kWindow:
      return v1::TRACED_LAYER_KIND_WINDOW;
  }
  return v1::TRACED_LAYER_KIND_UNSPECIFIED;
}

void fill(const HeadTrace& in, bool selects, v1::HeadTrace& out) {
  out.set_kv_head(in.kv_head);
  out.set_source_kv_head(in.source_head);
  out.set_attended_keys(in.attended_keys);
  out.set_attended_mass(in.attended_mass);
  if (!selects) return;
  out.set_selected_mass(in.selected_mass);
  out.mutable_selected()->Add(in.selected.begin(), in.selected.end());
  out.mutable_scores()->Add(in.scores.begin(), in.scores.end());
  out.set_takes_all(in.takes_all);
}

void fill(const TraceMapRow& in, v1::TraceMapRow& out) {
  out.mutable_mass()->Add(in.mass.begin(), in.mass.end());
  out.mutable_attended_mass()->Add(in.attended_mass.begin(), in.attended_mass.end());
  out.mutable_attended_keys()->Add(in.attended_keys.begin(), in.attended_keys.end());
}

}  // namespace

absl::StatusOr<core::TracingRequest> read_trace(const v1::TraceRequest& in, int32_t layers,
                                                absl::Time deadline) {
  core::TracingRequest out;
  auto prompt = read_input(in);
  if (!prompt.ok()) return prompt.status();
  out.prompt = *std::move(prompt);
  out.prompt_options = read_prompt_options(in);
  if (in.has_attention()) {
    auto attention = read_choice(in.attention(), "attention", layers);
    if (!attention.ok()) return attention.status();
    out.attention = *std::move(attention);
  }
  if (!v1::SelectionPhase_IsValid(in.phase())) {
    return invalid_field("phase", absl::StrCat("unknown value ", int{in.phase()}));
  }
  if (in.phase() == v1::SELECTION_PHASE_TILE) out.granularity = SelectionGranularity::kPerTile;
  if (in.has_position()) out.position = in.position();
  out.layers.assign(in.layers().begin(), in.layers().end());
  out.kv_heads.assign(in.kv_heads().begin(), in.kv_heads().end());
  out.map = in.map();
  out.deadline = deadline;
  return out;
}

std::vector<FieldName> trace_fields(const v1::TraceRequest& in) {
  return {{"tokens[", "token_ids.ids["},
          {"tokens", in.has_text() ? "text" : "token_ids"},
          {"dense_layers[", "dense_layers.layers["}};
}

void to_proto(const core::TracingStarted& started, v1::TraceStarted& out) {
  const core::PreparedTrace& trace = started.trace;
  out.set_tokens(trace.tokens);
  out.set_position(trace.position);
  out.set_token_id(started.token);
  out.set_token_text(std::string(started.token_text));
  out.set_phase(trace.granularity == SelectionGranularity::kPerQuery ? v1::SELECTION_PHASE_ROW
                                                                     : v1::SELECTION_PHASE_TILE);
  out.set_first_position(trace.first_position);
  out.set_last_position(trace.last_position);
  out.set_query_tile(trace.query_tile);
  out.set_key_tile(trace.key_tile);
  out.set_map_tile(trace.map_tile);
  to_proto(trace.request.attention, *out.mutable_attention());
  out.mutable_layers()->Add(trace.layers.begin(), trace.layers.end());
  out.mutable_kv_heads()->Add(trace.kv_heads.begin(), trace.kv_heads.end());
}

std::vector<v1::LayerTrace> to_proto(const LayerTrace& layer) {
  std::vector<v1::LayerTrace> out;
  size_t units = 0;
  for (const HeadTrace& head : layer.heads) {
    if (out.empty() || units >= kMaxTracedPerMessage) {
      v1::LayerTrace& part = out.emplace_back();
      part.set_layer(layer.layer);
      part.set_kind(to_proto(layer.kind));
      part.set_source_layer(layer.source);
      part.set_causal_keys(layer.causal_keys);
      units = 0;
    }
    units += head.selected.size();
    fill(head, layer.selects, *out.back().add_heads());
  }
  return out;
}

std::vector<v1::TraceMap> to_proto(const TraceMap& map) {
  std::vector<v1::TraceMap> out;
  size_t cells = 0;
  for (size_t row = 0; row < map.rows.size(); ++row) {
    if (out.empty() || cells >= kMaxTracedPerMessage) {
      v1::TraceMap& part = out.emplace_back();
      part.set_layer(map.layer);
      part.set_kv_head(map.kv_head);
      part.set_first_row(static_cast<int32_t>(row));
      cells = 0;
    }
    cells += map.rows[row].mass.size();
    fill(map.rows[row], *out.back().add_rows());
  }
  return out;
}

}  // namespace kascade::server
