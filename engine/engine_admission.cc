// How requests get into the engine: admission, and the inbox of the engine's thread.
#include <algorithm>
#include <utility>
#include <variant>

#include "engine/base/clock.h"
#include "engine/base/refusal.h"
#include "engine/engine.h"
#include "engine/runtime/engine_impl.h"

namespace kascade {
namespace {

absl::Status draining() {
  return absl::UnavailableError("the server is draining; send to another one");
}

QueueEntry entry_of(const Request& request, const Submission& options) {
  const auto* generate = std::get_if<Generate>(&request.task);
  return {.priority = options.priority,
          .client = options.client,
          .places = request.runs(),
          .tokens = std::ssize(request.tokens) * request.runs(),
          .new_tokens = generate != nullptr ? generate->max_new_tokens : 0};
}

}  // namespace

AdmittedRequest::AdmittedRequest(std::unique_ptr<Place> place) : place_(std::move(place)) {}
AdmittedRequest::AdmittedRequest(AdmittedRequest&& other) noexcept = default;
AdmittedRequest& AdmittedRequest::operator=(AdmittedRequest&& other) noexcept = default;
AdmittedRequest::~AdmittedRequest() = default;

absl::Status Engine::Impl::take_place(const QueueEntry& entry, bool is_continuation) {
  const std::lock_guard lock(mutex);
  if (stopping || (draining && !is_continuation)) return kascade::draining();
  if (!is_continuation) {
    const double idle_seconds = idle ? absl::ToDoubleSeconds(steady_now() - idle_since) : 0;
    absl::Status status = admission.check(entry, std::max(0.0, idle_seconds));
    if (!status.ok()) return status;
  }
  admission.enter(entry);
  ++places_unused;
  return absl::OkStatus();
}

void Engine::Impl::give_back(const QueueEntry& entry) {
  const std::lock_guard lock(mutex);
  admission.leave(entry);
  --places_unused;
  became_idle.notify_all();
}

absl::StatusOr<SeqId> Engine::Impl::enqueue(QueuedRequest queued) {
  const std::lock_guard lock(mutex);
  if (stopping) return kascade::draining();
  --places_unused;
  queued.id = next_id++;
  const SeqId id = queued.id;
  inbox.emplace_back(std::move(queued));
  idle = false;
  wake.notify_one();
  return id;
}

void Engine::Impl::publish(const EngineStats& stats, const QueueChanges& changes) {
  const std::lock_guard lock(mutex);
  published_stats = stats;
  for (const QueueEntry& entry : changes.started) admission.leave(entry);
  for (const QueueEntry& entry : changes.gone) admission.leave(entry);
  admission.set_outlook(changes.outlook);
  if (changes.step_seconds > 0) {
    admission.record_step({.seconds = changes.step_seconds,
                           .idle_seconds = changes.idle_seconds,
                           .interactive_rows = changes.interactive_rows,
                           .started = changes.started,
                           .rows_per_second = changes.rows_per_second});
  }
}

absl::StatusOr<AdmittedRequest> Engine::admit(const Request& request, const Submission& options) {
  const ModelLimits limits = limits_of(impl_->config);
  absl::Status status = validate(request, limits);
  if (!status.ok()) return status;
  for (const AttentionChoice& choice : computed_attention(request, limits)) {
    const auto* scheduled = std::get_if<ScheduledAttention>(&choice);
    if (scheduled == nullptr) continue;
    status = check_cache(scheduled->schedule->selection);
    if (!status.ok()) return status;
  }
  QueueEntry entry = entry_of(request, options);
  // The last token of a text is not fed, nor is the last generated one.
  const int64_t longest = limits.context + (entry.new_tokens > 0 ? 0 : 1);
  const auto size = static_cast<int32_t>(
      std::min<int64_t>(std::ssize(request.tokens) + entry.new_tokens, longest));
  status = check_fits(size - 1, request.runs());
  if (status.ok()) status = impl_->take_place(entry, options.is_continuation);
  if (!status.ok()) return status;
  return AdmittedRequest(std::make_unique<AdmittedRequest::Place>(
      std::move(entry), options.has_whole_chunks,
      [impl = impl_.get()](const QueueEntry& unused) { impl->give_back(unused); }));
}

absl::Status Engine::check_fits(int32_t tokens, int32_t runs) const {
  return kascade::check_fits(tokens, runs, impl_->blocks, impl_->max_sequences);
}

absl::StatusOr<SeqId> Engine::submit(Request request, AdmittedRequest admitted, EventSink sink) {
  AdmittedRequest::Place& place = *admitted.place_;
  auto id = impl_->enqueue({.request = std::move(request),
                            .entry = place.entry,
                            .has_whole_chunks = place.has_whole_chunks,
                            .sink = std::move(sink)});
  if (id.ok()) place.give_back = nullptr;
  return id;
}

absl::StatusOr<SeqId> Engine::submit(Request request, const Submission& options, EventSink sink) {
  auto admitted = admit(request, options);
  if (!admitted.ok()) return admitted.status();
  return submit(std::move(request), *std::move(admitted), std::move(sink));
}

absl::StatusOr<SeqId> Engine::submit(Request request, EventSink sink) {
  return submit(std::move(request), Submission{}, std::move(sink));
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->mutex);
  EngineStats stats = impl_->published_stats;
  // What the engine's thread has not taken in yet waits as well, also while it is in a long step.
  stats.waiting +=
      static_cast<int32_t>(std::ranges::count_if(impl_->inbox, [](const Impl::Command& command) {
        return std::holds_alternative<QueuedRequest>(command);
      }));
  stats.predicted_wait_seconds = impl_->admission.predicted_wait(QueueEntry{}).value_or(0);
  return stats;
}

}  // namespace kascade
