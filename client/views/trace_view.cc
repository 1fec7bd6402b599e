#include "client/views/trace_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <optional>
#include <utility>

#include "client/commands/attention_flags.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

// Keys [first, last] that were selected, with the best of their scores.
struct KeyRun {
  int32_t first = 0, last = 0;
  std::optional<float> score{};
};

// Adjoining selected keys as runs, by falling score of their best key; in order of position if
// there are no scores.
std::vector<KeyRun> runs_of(const v1::HeadTrace& head) {
  std::vector<KeyRun> keys;
  for (int i = 0; i < head.selected_size(); ++i) {
    keys.push_back({head.selected(i), head.selected(i), std::nullopt});
    if (i < head.scores_size()) keys.back().score = head.scores(i);
  }
  std::ranges::sort(keys, {}, &KeyRun::first);
  std::vector<KeyRun> runs;
  for (const KeyRun& key : keys) {
    if (runs.empty() || runs.back().last + 1 != key.first) {
      runs.push_back(key);
      continue;
    }
    runs.back().last = key.last;
    if (key.score) {
      runs.back().score = std::max(runs.back().score.value_or(*key.score), *key.score);
    }
  }
  std::ranges::stable_sort(runs, std::greater<>(), &KeyRun::score);
  return runs;
}

// Key tiles by number, in order of score.
std::vector<KeyRun> tiles_of(const v1::HeadTrace& head, int32_t key_tile) {
  std::vector<KeyRun> tiles;
  for (int i = 0; i < head.selected_size(); ++i) {
    const int32_t number = head.selected(i) / key_tile;
    tiles.push_back({number, number, std::nullopt});
    if (i < head.scores_size()) tiles.back().score = head.scores(i);
  }
  return tiles;
}

std::string run_text(const KeyRun& run) {
  std::string out = std::to_string(run.first);
  if (run.last > run.first) out += fmt::format("-{}", run.last);
  return run.score ? out + fmt::format(" ({:.4f})", *run.score) : out;
}

// "12 tiles of 16 keys: 0 (0.8121), 30 (0.0410), … and 3 more".
std::string selection_text(const v1::HeadTrace& head, int32_t key_tile, int most) {
  const bool tiles = key_tile > 1;
  std::string out =
      tiles ? fmt::format("{} of {} keys", counted(head.selected_size(), "tile"), key_tile)
            : counted(head.selected_size(), "key");
  if (head.takes_all()) return out + ": all candidates";
  const std::vector<KeyRun> all = tiles ? tiles_of(head, key_tile) : runs_of(head);
  const size_t shown = most > 0 ? std::min(all.size(), static_cast<size_t>(most)) : all.size();
  std::vector<std::string> parts;
  for (size_t i = 0; i < shown; ++i) parts.push_back(run_text(all[i]));
  out += fmt::format(": {}", fmt::join(parts, ", "));
  return shown < all.size() ? out + fmt::format(" … and {} more", all.size() - shown) : out;
}

std::string head_text(const v1::LayerTrace& layer, const v1::HeadTrace& head, int32_t key_tile,
                      int most) {
  std::string out = fmt::format(
      "  head {}  {} of {}, {} of the mass\n", head.kv_head(), with_commas(head.attended_keys()),
      counted(layer.causal_keys(), "token"), percent(head.attended_mass()));
  if (!head.has_selected_mass()) return out;
  out += fmt::format("          selects {}\n", selection_text(head, key_tile, most));
  // Where the layer itself attends to more than it selects for others.
  if (layer.kind() == v1::TRACED_LAYER_KIND_DENSE || head.attended_mass() != head.selected_mass()) {
    out += fmt::format("          its selection, with sinks and own tile, holds {} of the mass\n",
                       percent(head.selected_mass()));
  }
  return out;
}

std::string rows_text(const v1::TraceStarted& started) {
  if (started.phase() == v1::SELECTION_PHASE_ROW) return "selects alone, as in decoding";
  return fmt::format("its query tile, positions {} to {}, selects together, as in prefill",
                     started.first_position(), started.last_position());
}

Json head_json(const v1::HeadTrace& head) {
  Json out = {{"kv_head", head.kv_head()},
              {"source_kv_head", head.source_kv_head()},
              {"attended_keys", head.attended_keys()},
              {"attended_mass", head.attended_mass()}};
  if (!head.has_selected_mass()) return out;
  out["selected_mass"] = head.selected_mass();
  out["selected"] = head.selected();
  out["scores"] = head.scores();
  out["takes_all"] = head.takes_all();
  return out;
}

Json map_json(const v1::TraceMap& map) {
  Json rows = Json::array();
  for (const auto& row : map.rows()) {
    rows.push_back({{"mass", row.mass()},
                    {"attended_mass", row.attended_mass()},
                    {"attended_keys", row.attended_keys()}});
  }
  return {{"layer", map.layer()}, {"kv_head", map.kv_head()}, {"rows", std::move(rows)}};
}

}  // namespace

void add_layer(v1::LayerTrace layer, TraceRun& run) {
  if (run.layers.empty() || run.layers.back().layer() != layer.layer()) {
    run.layers.push_back(std::move(layer));
  } else {
    run.layers.back().mutable_heads()->MergeFrom(layer.heads());
  }
}

void add_map(v1::TraceMap map, TraceRun& run) {
  if (map.first_row() == 0 || run.maps.empty()) {
    run.maps.push_back(std::move(map));
  } else {
    run.maps.back().mutable_rows()->MergeFrom(map.rows());
  }
}

std::string layer_title(const v1::LayerTrace& layer) {
  const std::string name = fmt::format("L{} ", layer.layer());
  if (layer.kind() != v1::TRACED_LAYER_KIND_REUSE) {
    const bool selects = layer.heads_size() > 0 && layer.heads(0).has_selected_mass();
    const bool dense = layer.kind() == v1::TRACED_LAYER_KIND_DENSE;
    const bool idle = layer.kind() == v1::TRACED_LAYER_KIND_ANCHOR && !selects;
    return name + name_of(layer.kind()) +
           (dense && selects ? ", selects for others"
            : idle           ? ", selects nothing, as no layer reuses it"
                             : "");
  }
  std::vector<std::string> map;
  for (const auto& head : layer.heads()) {
    map.push_back(fmt::format("{}→{}", head.kv_head(), head.source_kv_head()));
  }
  return fmt::format("{}reuses L{}, head map {}", name, layer.source_layer(), fmt::join(map, " "));
}

std::string trace_text(const TraceRun& run, int most) {
  const auto& started = run.started;
  Facts facts;
  facts.add("Text", counted(started.tokens(), "token"));
  facts.add("Query", fmt::format("position {}, token {} {}; {}", started.position(),
                                 started.token_id(), started.token_text(), rows_text(started)));
  facts.add("Attention", text_of(started.attention()));
  std::string out = facts.text();
  for (const auto& layer : run.layers) {
    out += fmt::format("\n{}\n", paint(Colour::kBold, layer_title(layer)));
    for (const auto& head : layer.heads()) {
      out += head_text(layer, head, started.key_tile(), most);
    }
  }
  return out;
}

Json trace_json(const TraceRun& run, bool maps) {
  const auto& started = run.started;
  Json out = {{"file", run.file},
              {"tokens", started.tokens()},
              {"position", started.position()},
              {"token_id", started.token_id()},
              {"token_text", started.token_text()},
              {"phase", name_of(started.phase())},
              {"first_position", started.first_position()},
              {"last_position", started.last_position()},
              {"query_tile", started.query_tile()},
              {"key_tile", started.key_tile()},
              {"map_tile", started.map_tile()},
              {"attention", choice_json(started.attention())}};
  Json& layers = out["layers"] = Json::array();
  for (const auto& layer : run.layers) {
    Json heads = Json::array();
    for (const auto& head : layer.heads()) heads.push_back(head_json(head));
    layers.push_back({{"layer", layer.layer()},
                      {"kind", name_of(layer.kind())},
                      {"source_layer", layer.source_layer()},
                      {"causal_keys", layer.causal_keys()},
                      {"heads", std::move(heads)}});
  }
  if (maps) {
    Json& list = out["maps"] = Json::array();
    for (const auto& map : run.maps) list.push_back(map_json(map));
  }
  add_attention(run.finished.attention(), out);
  return out;
}

}  // namespace kascade::client
