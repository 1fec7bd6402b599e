#include "server/core/tracing.h"

#include <algorithm>
#include <utility>

#include "engine/base/clock.h"
#include "server/core/limits.h"

namespace kascade::core {
namespace {

constexpr absl::Duration kProgressInterval = absl::Milliseconds(250);
// Bytes that one cell of a map becomes, about: two floats and a count.
constexpr int64_t kCellBytes = 10;

}  // namespace

void Tracing::start(const TracingRequest& request, const std::shared_ptr<const void>& owner) {
  auto prepared = prepare(request, context_.engine, context_.schedules, guard_);
  if (!prepared.ok()) return sink_.ended(prepared.status());
  trace_ = *std::move(prepared);
  auto admitted = context_.engine.admit(trace_.request,
                                        {.priority = Priority::kBatch, .client = request.client});
  if (!admitted.ok()) return sink_.ended(admitted.status());
  context_.metrics.request_prompt_tokens.Observe(static_cast<double>(trace_.tokens_to_run()));
  report_start();
  const auto id =
      context_.engine.submit(trace_.request, *std::move(admitted),
                             [this, owner](const Event& event) { on_event(event, owner); });
  if (!id.ok()) return sink_.ended(id.status());
  const std::lock_guard lock(cancel_mutex_);
  submitted_ = *id;
  if (cancelled_) context_.engine.cancel(*id);
}

void Tracing::cancel() {
  guard_.cancel();
  const std::lock_guard lock(cancel_mutex_);
  cancelled_ = true;
  if (submitted_) context_.engine.cancel(*submitted_);
}

void Tracing::report_start() {
  const Token token = trace_.request.tokens[static_cast<size_t>(trace_.position)];
  const Tokenizer& tokenizer = context_.engine.tokenizer();
  TracingStarted started{.trace = trace_, .token = token};
  // The model may have ids that the tokenizer does not.
  if (token < tokenizer.vocab_size()) started.token_text = tokenizer.token_text(token);
  sink_.started(started);
}

void Tracing::on_event(const Event& event, const std::shared_ptr<const void>& owner) {
  if (!event.finish) {
    const absl::Time now = steady_now();
    if (now - last_progress_ < kProgressInterval) return;
    last_progress_ = now;
    return sink_.progress(event.computed_tokens, trace_.tokens_to_run());
  }
  if (!event.finish->status.ok()) return sink_.ended(event.finish->status);
  context_.metrics.queue_time.Observe(absl::ToDoubleSeconds(event.finish->queued));
  // The engine's thread has other work than writing large messages.
  context_.work.run(static_cast<size_t>(trace_.map_cells * kCellBytes),
                    [this, owner, counts = event.finish->counts.at(0)] { tell(counts); });
}

void Tracing::tell(const AttentionCounts& counts) {
  const Trace trace = trace_.recorder->take();
  const size_t heads = trace_.kv_heads.size();
  for (size_t i = 0; i < trace.layers.size(); ++i) {
    sink_.layer(trace.layers[i]);
    if (trace.maps.empty()) continue;
    for (size_t g = 0; g < heads; ++g) sink_.map(trace.maps[i * heads + g]);
  }
  sink_.finished(counts, trace_.request.attention);
  sink_.ended(absl::OkStatus());
}

}  // namespace kascade::core
