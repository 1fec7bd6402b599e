#include "client/views/schedule_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "client/views/panel_view.h"
#include "client/views/reports.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

std::string selection_text(const v1::SelectionRule& rule) {
  const std::string below = rule.dense_below() > 0 ? fmt::format("; all keys below position {}",
                                                                 with_commas(rule.dense_below()))
                                                   : "";
  if (rule.family() == v1::SELECTION_FAMILY_TILE) {
    return fmt::format("tile: {} key tiles of {} tokens, the own tile on top{}", rule.top_k(),
                       rule.tile_size(), below);
  }
  const std::string budget =
      rule.has_mass()
          ? fmt::format("the keys with {} of the attention, at least {}, at most {}",
                        percent(rule.mass(), 1), rule.min_keys(), percent(rule.max_ratio(), 1))
          : fmt::format("{} of the earlier keys, at least {}", percent(rule.ratio(), 1),
                        rule.min_keys());
  return fmt::format("kascade: {}; tiles of {} queries{}{}{}{}{}{}", budget, rule.tile_size(),
                     rule.sink_keys() > 0 ? fmt::format("; {} sink keys", rule.sink_keys()) : "",
                     rule.decode_own_tile() ? "" : "; own tile not forced in decoding",
                     rule.pooling() == v1::SCORE_POOLING_MAX ? "; scores are largest ones" : "",
                     rule.all_heads() ? "; one choice for all heads" : "",
                     rule.int4_keys() ? "; chosen by 4-bit keys" : "", below);
}

std::string origin_text(const v1::CalibrationSummary& made) {
  std::string out =
      fmt::format("maker {}, {} of {} in {}", made.maker(), counted(made.windows(), "window"),
                  counted(made.window_tokens(), "token"), duration(made.duration_seconds()));
  if (made.has_threshold()) {
    out += fmt::format("; threshold {}{}", percent(made.threshold()),
                       made.auto_threshold() ? " (auto)" : "");
  }
  if (made.has_max_reuse_dist()) {
    out += fmt::format("; reuse at most {} after its anchor",
                       counted(made.max_reuse_dist() - 1, "layer"));
  }
  if (made.weighted_by_loss()) out += "; layer costs were measured";
  if (made.published_head_map_slip()) out += "; head maps with the published mistake";
  return out;
}

// The settings that the request changed from the defaults; empty if it changed none.
std::string request_text(const v1::RequestedPlan& asked) {
  std::vector<std::string> parts;
  if (asked.has_anchors()) parts.push_back(counted(asked.anchors(), "anchor"));
  if (asked.dense_layers_size() > 0) {
    parts.push_back(fmt::format("dense layers {}", fmt::join(asked.dense_layers(), ", ")));
  }
  if (asked.auto_dense_layers()) {
    parts.push_back(fmt::format("dense where the own budget recalls less than {}",
                                percent(asked.min_recall())));
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

// Draws the layers as a row of letters; layers that reuse keys are in brackets after the layer
// whose keys they reuse.
std::string picture(const v1::Schedule& schedule) {
  std::string row;
  bool reusing = false;
  for (const auto& layer : schedule.layers()) {
    const bool reuse = layer.role() == v1::LAYER_ROLE_REUSE;
    if (reusing && !reuse) row += ']';
    if (!row.empty()) row += reuse && !reusing ? '[' : ' ';
    row += upper(name_of(layer.role()))[0];
    reusing = reuse;
  }
  return reusing ? row + ']' : row;
}

// The cells that a measurement adds: min, median and max of the similarity, and the recall.
std::vector<std::string> measured_cells(const v1::MeasuredLayer& layer) {
  const auto spread = [&](double value) {
    return layer.has_similarity() ? percent(value) : std::string("-");
  };
  return {spread(layer.similarity().min()), spread(layer.similarity().median()),
          spread(layer.similarity().max()), percent(layer.recall())};
}

std::string layer_table(const v1::Schedule& schedule, const v1::CalibrationResult* measured) {
  using enum Table::Align;
  const bool measures = measured != nullptr && measured->layers_size() == schedule.layers_size();
  const bool costs = std::ranges::any_of(schedule.layers(),
                                         [](const auto& layer) { return layer.has_reuse_cost(); });
  std::vector<Table::Column> columns = {{"Layer"}, {"Role", kLeft}, {"Anchor"}, {"Similarity"}};
  if (measures) columns.insert(columns.end(), {{"Min"}, {"Median"}, {"Max"}, {"Recall"}});
  columns.push_back({"Importance"});
  if (costs) columns.push_back({"Reuse cost"});
  columns.insert(columns.end(), {{"Head map", kLeft}, {"Reason", kLeft}});
  Table table(std::move(columns));
  for (int i = 0; i < schedule.layers_size(); ++i) {
    const auto& layer = schedule.layers(i);
    const bool reuse = layer.role() == v1::LAYER_ROLE_REUSE;
    std::vector<std::string> row = {std::to_string(i), upper(name_of(layer.role())),
                                    reuse ? fmt::format("L{}", layer.anchor()) : "-",
                                    reuse ? percent(layer.similarity()) : "-"};
    if (measures) {
      for (std::string& cell : measured_cells(measured->layers(i))) row.push_back(std::move(cell));
    }
    row.push_back(fixed(layer.importance(), 4));
    if (costs) {
      row.push_back(layer.has_reuse_cost() ? fmt::format("{:.5f}", layer.reuse_cost()) : "-");
    }
    row.push_back(reuse ? fmt::format("{}", fmt::join(layer.head_map(), " ")) : "-");
    row.push_back(layer.reason());
    table.add(std::move(row));
  }
  return table.text();
}

std::string totals(const v1::Schedule& schedule) {
  const auto count = [&](v1::LayerRole role) {
    return std::count_if(schedule.layers().begin(), schedule.layers().end(),
                         [&](const auto& layer) { return layer.role() == role; });
  };
  // Layer 0 is dense and counts as an anchor, as it does in --anchors and in the quality check.
  const auto anchors = count(v1::LAYER_ROLE_ANCHOR) + 1;
  const auto more_dense = count(v1::LAYER_ROLE_DENSE) - 1;
  return fmt::format(
      "Total: {} REUSE, {} ANCHOR/DENSE ({}, layer 0 counted, and {} more dense); "
      "{} of {} reuse\n",
      count(v1::LAYER_ROLE_REUSE), anchors + more_dense, counted(anchors, "anchor"), more_dense,
      percent(schedule.reuse_layers_ratio()), counted(schedule.layers_size(), "layer"));
}

// Whether the check selected keys for each query or for each tile.
const char* granularity(const v1::QualityReport& quality) {
  return quality.phase() == "tile" ? "per-tile" : "per-query";
}

std::string limit_text(const v1::QualityReport& quality) {
  return fmt::format("perplexity at most {} worse, standard error included",
                     percent(quality.max_degradation_percent() / 100));
}

// Returns "passed", or the reason why the candidate did not pass.
std::string outcome(const v1::QualityReport& quality) {
  if (quality.passed()) return "passed";
  if (quality.suspect()) return "suspect";
  if (saves_nothing(quality)) return "saves nothing";
  if (quality.retrieval_size() > 0) return "too few pass keys";  // asked where perplexity passed
  return quality.kinds_size() > 1 ? "too much in " + worst_kind(quality).kind() : "too much";
}

// The dense and sparse perplexity of the resulting schedule, and their difference.
std::string chosen_text(const v1::QualityReport& quality) {
  Facts facts;
  facts.add("Dense perplexity", fmt::format("{:.4f}", quality.dense_perplexity()));
  facts.add("Sparse perplexity", fmt::format("{:.4f}", quality.sparse_perplexity()));
  // Judged by the verdict that follows, which has the limit of this quality check.
  facts.add("Degradation", degradation_text(quality));
  return facts.text();
}

std::string verdict(const v1::CalibrationResult& result) {
  const auto& quality = result.schedule().quality();
  if (quality.suspect()) {
    return paint(Colour::kRed, "SUSPECT") +
           ": the dense model is hardly better than guessing on this text, so nothing can pass; "
           "see "
           "the warning about the model";
  }
  if (quality.has_doubt()) {
    return fmt::format(
        "{}: the dense model does not do what a working one does on natural text ({}); the check "
        "was {}passed, and the schedule is {}active",
        paint(Colour::kRed, "DOUBTFUL"), quality.doubt(), result.passed() ? "" : "not ",
        result.activated() ? "" : "not ");
  }
  if (saves_nothing(quality)) {
    return paint(Colour::kRed, "NOT PASSED") +
           ": every layer attends to all keys: nothing is saved";
  }
  const std::string row = deciding_row_text(quality);
  if (!result.passed()) {
    const bool by_retrieval = quality.retrieval_size() > 0;
    return fmt::format(
        "{}: {} was not reached{}; the best candidate is kept, not activated",
        paint(Colour::kRed, "NOT PASSED"),
        by_retrieval ? "as many pass keys as with dense attention" : limit_text(quality),
        row.empty() ? "" : " (" + row + ")");
  }
  const bool shows_worst = quality.kinds_size() > 1;
  return paint(Colour::kGreen, "PASSED") + ": " + limit_text(quality) +
         (shows_worst ? " (at worst, " + row + ")" : "") +
         (result.activated() ? "; the schedule is active" : "; the schedule is not active");
}

}  // namespace

std::string schedule_text(const v1::Schedule& schedule, const v1::CalibrationResult* measured) {
  Facts facts;
  facts.add("Schedule", schedule.schedule_id());
  facts.add("Model", schedule.model().name());
  facts.add("Made", fmt::format("{}; {}", time_text(schedule.created_at()),
                                origin_text(schedule.calibration())));
  const std::string asked = request_text(schedule.calibration().requested());
  if (!asked.empty()) facts.add("Asked for", asked);
  facts.add("Selection", selection_text(schedule.selection()));
  facts.add("Layers", picture(schedule));
  return facts.text() + "\n" + layer_table(schedule, measured) + totals(schedule);
}

std::string quality_text(const v1::QualityReport& quality) {
  Facts facts;
  facts.add("Held-out text", fmt::format("{}, {} selection, {}", counted(quality.tokens(), "token"),
                                         granularity(quality), quality.protocol()));
  facts.add("Dense perplexity", fmt::format("{:.4f}", quality.dense_perplexity()));
  facts.add("Sparse perplexity",
            fmt::format("{:.4f} ({})", quality.sparse_perplexity(), degradation_text(quality)));
  facts.add("Keys attended", percent(quality.keys_attended_ratio()) + " of the causal ones");
  if (quality.has_kv_bytes_read_per_token()) {
    facts.add("KV read",
              fmt::format("{} per token (dense: {})", bytes(quality.kv_bytes_read_per_token()),
                          bytes(quality.dense_kv_bytes_read_per_token())));
  }
  facts.add("Quality check", fmt::format("{} ({})", quality.passed() ? "passed" : "NOT passed",
                                         limit_text(quality)));
  return facts.text() + panel_text(quality);
}

std::string quality_check_text(const v1::CalibrationResult& result) {
  const auto& stored = result.schedule().quality();
  std::string out =
      fmt::format("Quality check on {} of held-out text ({} selection): {}\n",
                  counted(stored.tokens(), "token"), granularity(stored), limit_text(stored));
  const bool by_mass = std::ranges::any_of(result.candidates(), &v1::GateCandidate::has_mass);
  Table table({{"Anchors"},
               {"More dense"},
               {by_mass ? "Mass" : "Predicted similarity"},
               {"ΔPPL"},
               {"Mean KL (nats)"},
               {"Same top-1"},
               {"Keys attended"},
               {"KV per token"},
               {"", Table::Align::kLeft}});
  for (const auto& candidate : result.candidates()) {
    const auto& quality = candidate.quality();
    table.add({std::to_string(candidate.anchors()), std::to_string(candidate.dense_layers()),
               by_mass ? percent(candidate.mass(), 1) : percent(candidate.predicted_similarity()),
               degradation_text(quality), fixed(quality.mean_kl(), 5),
               percent(quality.same_top1_ratio()), percent(quality.keys_attended_ratio()),
               bytes(quality.kv_bytes_read_per_token()), outcome(quality)});
  }
  out += table.text() + chosen_text(stored) + panel_text(stored) + "Verdict: " + verdict(result) +
         "\n";
  if (!result.saved_file().empty()) out += "Saved by the server: " + result.saved_file() + "\n";
  if (!result.note().empty()) out += "Note: " + result.note() + "\n";
  return out;
}

bool saves_nothing(const v1::QualityReport& quality) {
  return !quality.passed() && quality.keys_attended_ratio() >= 1;
}

Json quality_json(const v1::QualityReport& quality) {
  Json out = {
      {"phase", quality.phase()},
      {"protocol", quality.protocol()},
      {"tokens", quality.tokens()},
      {"dense_perplexity", quality.dense_perplexity()},
      {"sparse_perplexity", quality.sparse_perplexity()},
      {"degradation_percent",
       quality.has_degradation_percent() ? Json(quality.degradation_percent()) : Json(nullptr)},
      {"degradation_percent_standard_error",
       quality.has_degradation_percent_standard_error()
           ? Json(quality.degradation_percent_standard_error())
           : Json(nullptr)},
      {"mean_kl", quality.mean_kl()},
      {"same_top1", quality.same_top1_ratio()},
      {"keys_attended_ratio", quality.keys_attended_ratio()},
      {"keys_scored_ratio", quality.keys_scored_ratio()},
      {"kv_bytes_read_per_token", quality.kv_bytes_read_per_token()},
      {"dense_kv_bytes_read_per_token", quality.dense_kv_bytes_read_per_token()},
      {"max_degradation_percent", quality.max_degradation_percent()},
      {"suspect", quality.suspect()},
      {"doubt", quality.has_doubt() ? Json(quality.doubt()) : Json()},
      {"passed", quality.passed()}};
  add_panel(quality, out);
  return out;
}

Json quality_check_json(const v1::CalibrationResult& result) {
  Json candidates = Json::array();
  for (const auto& candidate : result.candidates()) {
    Json entry = {{"anchors", candidate.anchors()},
                  {"dense_layers", candidate.dense_layers()},
                  {"predicted_similarity", candidate.predicted_similarity()}};
    if (candidate.has_mass()) entry["mass"] = candidate.mass();
    entry.update(quality_json(candidate.quality()));
    candidates.push_back(std::move(entry));
  }
  return candidates;
}

}  // namespace kascade::client
