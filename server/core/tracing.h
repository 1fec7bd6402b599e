// One trace: the text runs in the engine under a recorder, and what that recorded is told at the
// end. It does not know how requests arrive and answers leave.
#ifndef KASCADE_SERVER_CORE_TRACING_H_
#define KASCADE_SERVER_CORE_TRACING_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/core/server_context.h"
#include "server/core/tracing_request.h"

namespace kascade::core {

// The request as it was understood.
struct TracingStarted {
  const PreparedTrace& trace;
  Token token = 0;                // at the position
  std::string_view token_text{};  // as the vocabulary spells it
};

// Where the results of a trace go: started; progress as it comes; a layer for each layer, its maps
// after it; finished and ended. After a failure ended alone follows. What references point to is
// valid during the call. Called by one thread at a time; must not block.
class TracingSink {
 public:
  virtual ~TracingSink() = default;
  virtual void started(const TracingStarted& started) = 0;
  virtual void progress(int32_t tokens_done, int32_t tokens_total) = 0;
  virtual void layer(const LayerTrace& layer) = 0;
  virtual void map(const TraceMap& map) = 0;
  virtual void finished(const AttentionCounts& counts, const AttentionChoice& attention) = 0;
  // Called once, last; OK after finished().
  virtual void ended(const absl::Status& status) = 0;
};

class Tracing {
 public:
  // `context` and `sink` outlive the trace.
  Tracing(ServerContext& context, TracingSink& sink)
      : context_(context), sink_(sink), guard_(context.memory) {}

  // Checks and submits, then returns. `owner` keeps the trace and its sink alive until the engine
  // is done with both. Called once.
  void start(const TracingRequest& request, const std::shared_ptr<const void>& owner);
  // The client is gone: nothing more is computed. Thread-safe, at any time.
  void cancel();

 private:
  void report_start();
  void on_event(const Event& event, const std::shared_ptr<const void>& owner);
  void tell(const AttentionCounts& counts);

  ServerContext& context_;
  TracingSink& sink_;
  RequestGuard guard_;  // of start(); holds what the request takes until it is destroyed
  // Set by start(), then of the threads that call on_event() and tell(), one after the other.
  PreparedTrace trace_{};
  absl::Time last_progress_{};

  std::mutex cancel_mutex_;  // guards what follows
  std::optional<SeqId> submitted_{};
  bool cancelled_ = false;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_TRACING_H_
