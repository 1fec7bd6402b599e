#include "server/core/tracing_request.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "server/core/limits.h"

namespace kascade::core {
namespace {

constexpr int32_t kLeastMapTile = 16;  // keys of a cell

// The listed numbers, ascending and each once; all of [0, count) if none is listed.
absl::StatusOr<std::vector<int32_t>> listed(const std::vector<int32_t>& list,
                                            const std::string& field, int32_t count) {
  std::vector<int32_t> out = list;
  for (size_t i = 0; i < list.size(); ++i) {
    absl::Status status = check_range(absl::StrCat(field, "[", i, "]"), list[i], 0, count - 1);
    if (!status.ok()) return status;
  }
  if (out.empty()) {
    out.resize(static_cast<size_t>(count));
    std::iota(out.begin(), out.end(), 0);
  }
  std::ranges::sort(out);
  const auto repeated = std::ranges::unique(out);
  out.erase(repeated.begin(), repeated.end());
  return out;
}

absl::StatusOr<int32_t> position_of(const std::optional<int32_t>& asked, int64_t tokens,
                                    int32_t context) {
  const int64_t limit = std::min<int64_t>(context, kMaxTracedTokens);
  if (!asked && tokens > limit) {
    return invalid_field("tokens",
                         absl::StrCat("has ", tokens, " tokens; at most ", limit,
                                      " can be traced; name a position below that"),
                         reason::kTooLong);
  }
  if (!asked) return static_cast<int32_t>(tokens) - 1;
  absl::Status status = check_range("position", *asked, 0, std::min(tokens, limit) - 1);
  if (!status.ok()) return status;
  return *asked;
}

int32_t key_tile_of(const AttentionChoice& choice) {
  if (const auto schedule = schedule_of(choice)) {
    const bool tiles = schedule->selection.family == Family::kTile;
    return tiles ? schedule->selection.query_tile : 1;
  }
  const auto* baseline = std::get_if<BaselineAttention>(&choice);
  return baseline != nullptr && baseline->kind == BaselineKind::kQuest ? baseline->page_size : 1;
}

// Upper bound on what a recorded value takes: in the recorder, in what it gives and in the messages
// that the client has not read yet [bytes].
constexpr int64_t kValueBytes = 48;

// Holds the memory of what is recorded.
absl::Status check_size(const PreparedTrace& trace, const AttentionPolicy& policy,
                        RequestGuard& guard) {
  const auto places = static_cast<int64_t>(trace.layers.size() * trace.kv_heads.size());
  const bool per_query = trace.granularity == SelectionGranularity::kPerQuery;
  const int64_t keys = places * policy.candidates(trace.first_position, per_query).budget;
  for (const auto& [count, what] :
       {std::pair{keys, "selected keys"}, std::pair{trace.map_cells, "cells of the maps"}}) {
    if (count <= kMaxTracedValues) continue;
    return invalid_field(
        "layers", absl::StrCat("at most ", kMaxTracedValues, " ", what, " can be told, got ", count,
                               "; name fewer layers or KV heads"));
  }
  return guard.hold_more(kValueBytes * (keys + trace.map_cells));
}

// What follows from the position and the attention: rows and tiles.
void place_rows(const AttentionPolicy& policy, int64_t tokens, int32_t limit, PreparedTrace& out) {
  out.query_tile = policy.tiling().query_tile;
  out.key_tile = key_tile_of(out.request.attention);
  out.map_tile = (kLeastMapTile + out.query_tile - 1) / out.query_tile * out.query_tile;
  out.first_position = out.last_position = out.position;
  if (out.granularity == SelectionGranularity::kPerQuery) return;
  out.first_position = out.position / out.query_tile * out.query_tile;
  out.last_position = static_cast<int32_t>(std::min<int64_t>(
                          {int64_t{out.first_position} + out.query_tile, tokens, int64_t{limit}})) -
                      1;
}

// Position, layers and heads, as they were asked for.
absl::Status read_places(const TracingRequest& in, const ModelConfig& model, int64_t tokens,
                         PreparedTrace& out) {
  const auto position = position_of(in.position, tokens, model.context);
  if (!position.ok()) return position.status();
  auto layers = listed(in.layers, "layers", model.layers);
  if (!layers.ok()) return layers.status();
  auto heads = listed(in.kv_heads, "kv_heads", model.kv_heads);
  if (!heads.ok()) return heads.status();
  out.tokens = static_cast<int32_t>(tokens);
  out.position = *position;
  out.layers = *std::move(layers);
  out.kv_heads = *std::move(heads);
  return absl::OkStatus();
}

// The engine's request: the text up to the last traced row, and one token more, because the last
// one is not fed.
void make_request(std::vector<Token> tokens, bool map,
                  std::shared_ptr<const AttentionPolicy> policy, PreparedTrace& out) {
  tokens.resize(static_cast<size_t>(out.tokens_to_run()));
  tokens.push_back(tokens.back());
  out.request.tokens = std::move(tokens);
  const bool alone = out.granularity == SelectionGranularity::kPerQuery;
  out.recorder = std::make_shared<TraceRecorder>(TraceOptions{.position = out.position,
                                                              .row_alone = alone,
                                                              .layers = out.layers,
                                                              .kv_heads = out.kv_heads,
                                                              .map_tile = map ? out.map_tile : 0},
                                                 std::move(policy));
  out.request.task =
      Observe{.observer = out.recorder,
              .per_query_from = alone ? out.position : std::numeric_limits<int32_t>::max()};
}

}  // namespace

absl::StatusOr<PreparedTrace> prepare(const TracingRequest& in, const Engine& engine,
                                      const Schedules& schedules, RequestGuard& guard) {
  const ModelConfig& model = engine.model();
  guard.set_deadline(in.deadline);
  PreparedTrace out{.granularity = in.granularity};
  auto attention = resolve(in.attention.value_or(NamedSchedule{}), schedules);
  if (!attention.ok()) return attention.status();
  // The attention must be valid before there can be a policy.
  out.request = {.tokens = {0, 0}, .task = Score{}, .attention = *std::move(attention)};
  if (auto status = validate(out.request, limits_of(model)); !status.ok()) return status;
  out.request.deadline = in.deadline;

  auto prompt = encode_prompt(in.prompt, in.prompt_options, engine, guard, std::nullopt);
  if (!prompt.ok()) return prompt.status();
  if (prompt->tokens.empty()) return invalid_field("tokens", "the text has no token");
  const auto tokens = static_cast<int64_t>(prompt->tokens.size());
  if (auto status = read_places(in, model, tokens, out); !status.ok()) return status;
  const auto policy = make_policy(out.request.attention, model.layers);
  place_rows(*policy, tokens, std::min(model.context, kMaxTracedTokens), out);
  if (in.map) {
    out.map_cells = map_cells(out.tokens_to_run(), out.map_tile) *
                    static_cast<int64_t>(out.layers.size() * out.kv_heads.size());
  }
  if (auto status = check_size(out, *policy, guard); !status.ok()) return status;
  make_request(std::move(prompt->tokens), in.map, policy, out);
  return out;
}

}  // namespace kascade::core
