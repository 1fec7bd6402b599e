// What a trace asks for, and the text, rows and recorder that follow from it.
#ifndef KASCADE_SERVER_CORE_TRACING_REQUEST_H_
#define KASCADE_SERVER_CORE_TRACING_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/trace/trace_recorder.h"
#include "server/core/attention.h"
#include "server/core/prompt.h"

namespace kascade::core {

// As a front end fills it in. The text or tokens of the prompt must stay valid until
// Tracing::start() returns.
struct TracingRequest {
  Prompt prompt{};  // text or tokens
  PromptOptions prompt_options{};
  std::optional<AttentionSource> attention{};  // unset: the active schedule
  // Per query: the query at `position` alone, after a prompt that was prefilled per tile. Per tile:
  // the query tile that holds it.
  SelectionGranularity granularity = SelectionGranularity::kPerQuery;
  std::optional<int32_t> position{};  // in [0, tokens); unset: the last one
  std::vector<int32_t> layers{};      // empty: all
  std::vector<int32_t> kv_heads{};    // empty: all
  bool map = false;
  std::string client{};  // who sent it
  absl::Time deadline = absl::InfiniteFuture();
};

struct PreparedTrace {
  Request request{};  // of the engine; its last token is not fed
  std::shared_ptr<TraceRecorder> recorder{};
  int32_t tokens = 0;  // of the sequence, BOS included
  SelectionGranularity granularity = SelectionGranularity::kPerQuery;
  int32_t position = 0;
  int32_t first_position = 0, last_position = 0;  // of the traced rows
  int32_t query_tile = 0, key_tile = 0, map_tile = 0;
  std::vector<int32_t> layers{}, kv_heads{};  // ascending
  int64_t map_cells = 0;                      // of all maps

  int32_t tokens_to_run() const { return last_position + 1; }
};

// INVALID_ARGUMENT names the field, its limit and the value. FAILED_PRECONDITION: a schedule is
// asked for and none is active. NOT_FOUND: no schedule has the id. The errors of the guard, which
// then holds what the trace takes.
absl::StatusOr<PreparedTrace> prepare(const TracingRequest& request, const Engine& engine,
                                      const Schedules& schedules, RequestGuard& guard);

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_TRACING_REQUEST_H_
