#include "engine/scheduler/admission.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "engine/base/check.h"
#include "engine/base/refusal.h"

namespace kascade {
namespace {

// The time in which the weight of a step falls to 1/e: several requests of usual length start in
// it.
constexpr double kMemorySeconds = 10;
// Less busy time than this says nothing about the rate at which requests start.
constexpr double kLeastBusySeconds = 0.5;
constexpr double kLeastRetrySeconds = 0.25;
constexpr double kMostRetrySeconds = 60;
// Clients that were refused together are told delays that differ by up to this share.
constexpr double kJitter = 0.25;
constexpr double kGoldenRatio = 0.6180339887498949;

absl::Status refuse_for(const char* reason, const std::string& message, absl::Duration retry_after,
                        std::vector<std::pair<std::string, std::string>> details) {
  return refuse(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat("queue: ", message,
                   absl::StrFormat("; try again in %.1f s", absl::ToDoubleSeconds(retry_after))),
      {.reason = reason, .retry_after = retry_after, .details = std::move(details)});
}

}  // namespace

absl::Status check_fits(int32_t tokens, int32_t branches, const BlockAllocator& blocks,
                        int32_t max_sequences) {
  if (branches > max_sequences) {
    return refuse(absl::StatusCode::kFailedPrecondition,
                  absl::StrCat("needs ", branches, " places; max_sequences is ", max_sequences),
                  {.reason = reason::kTooManyRuns,
                   .subject = "max_sequences",
                   .remedy = "ask for one run, or start the server with a larger --max-sequences",
                   .details = {{"runs", absl::StrCat(branches)},
                               {"max_sequences", absl::StrCat(max_sequences)}}});
  }
  const int32_t room = blocks.total_blocks() / branches;
  if (blocks.blocks_for(tokens) <= room) return absl::OkStatus();
  const int64_t capacity = int64_t{room} * blocks.block_size();
  return refuse(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("needs cache for ", tokens, " tokens",
                   branches > 1 ? " in each of 2 branches" : "", "; it holds ", capacity),
      {.reason = reason::kCacheTooSmall,
       .subject = "kv_memory",
       .remedy = "send fewer tokens, ask for fewer new ones, or start the server with a larger "
                 "--kv-memory",
       .details = {{"tokens", absl::StrCat(tokens)}, {"cache_tokens", absl::StrCat(capacity)}}});
}

void Admission::set_limits(const AdmissionLimits& limits) {
  KASCADE_CHECK(limits.max_queue >= 1 && limits.max_queued_tokens >= 1);
  KASCADE_CHECK(limits.max_wait_seconds >= 0 && limits.always_waiting >= 0);
  limits_ = limits;
}

absl::Status Admission::check(const QueueEntry& entry) {
  if (entry.priority == Priority::kBackground) return absl::OkStatus();
  const Class& queue = of(entry.priority);
  const std::string class_name(name_of(entry.priority));
  if (queue.waiting >= limits_.max_queue) {
    return refuse_for(
        reason::kQueueFull,
        absl::StrCat(queue.waiting, " ", class_name, " requests wait, the limit is ",
                     limits_.max_queue),
        retry_after(entry),
        {{"waiting", absl::StrCat(queue.waiting)}, {"max_queue", absl::StrCat(limits_.max_queue)}});
  }
  if (queue.waiting > 0 && queue.tokens + entry.tokens > limits_.max_queued_tokens) {
    return refuse_for(
        reason::kQueuedTokens,
        absl::StrCat(queue.tokens, " tokens of ", class_name, " requests wait, with the ",
                     entry.tokens, " of this one they exceed the limit of ",
                     limits_.max_queued_tokens),
        retry_after(entry),
        {{"queued_tokens", absl::StrCat(queue.tokens)},
         {"tokens", absl::StrCat(entry.tokens)},
         {"max_queued_tokens", absl::StrCat(limits_.max_queued_tokens)}});
  }
  const bool limits_wait = entry.priority == Priority::kInteractive &&
                           limits_.max_wait_seconds > 0 && queue.waiting >= limits_.always_waiting;
  if (!limits_wait) return absl::OkStatus();
  const double wait = predicted_wait(entry.priority, entry.client).value_or(0);
  if (wait <= limits_.max_wait_seconds) return absl::OkStatus();
  return refuse_for(reason::kWaitTooLong,
                    absl::StrFormat("the request would wait %.1f s, the limit is %g s", wait,
                                    limits_.max_wait_seconds),
                    retry_after(entry),
                    {{"predicted_wait_seconds", absl::StrFormat("%.1f", wait)},
                     {"max_wait_seconds", absl::StrFormat("%g", limits_.max_wait_seconds)}});
}

// By then all that waits now has started, if the prediction is right.
absl::Duration Admission::retry_after(const QueueEntry& entry) {
  const double wait = predicted_wait(entry.priority, entry.client).value_or(1);
  // Multiples of the golden ratio spread evenly over [0, 1).
  const double position = ++refused_ * kGoldenRatio;
  const double jitter = 1 + kJitter * (position - std::floor(position));
  return absl::Milliseconds(
      std::llround(1000 * jitter * std::clamp(wait, kLeastRetrySeconds, kMostRetrySeconds)));
}

void Admission::enter(const QueueEntry& entry) {
  Class& queue = of(entry.priority);
  ++queue.waiting;
  queue.tokens += entry.tokens;
  queue.work += entry.tokens + entry.new_tokens;
  ++queue.clients[entry.client];
}

void Admission::leave(const QueueEntry& entry) {
  Class& queue = of(entry.priority);
  const auto client = queue.clients.find(entry.client);
  KASCADE_CHECK(client != queue.clients.end());
  if (--client->second == 0) queue.clients.erase(client);
  --queue.waiting;
  queue.tokens -= entry.tokens;
  queue.work -= entry.tokens + entry.new_tokens;
}

void Admission::record_step(double seconds, std::span<const QueueEntry> started,
                            std::optional<double> rows_per_second) {
  rows_per_second_ = rows_per_second;
  if (!(seconds > 0)) return;
  std::array<double, kPriorities> work{};
  for (const QueueEntry& entry : started) {
    work[static_cast<size_t>(entry.priority)] +=
        static_cast<double>(entry.tokens + entry.new_tokens);
  }
  const double kept = std::exp(-seconds / kMemorySeconds);
  for (const Priority priority : kEveryPriority) {
    Class& queue = of(priority);
    if (queue.waiting == 0) continue;  // the rate was not that of the engine but that of arrivals
    queue.started_work = queue.started_work * kept + work[static_cast<size_t>(priority)];
    queue.busy_seconds = queue.busy_seconds * kept + seconds;
  }
}

// Clients take turns, so the requests before a new one are at most as many of each waiting client
// as its own client has.
std::optional<double> Admission::predicted_wait(Priority priority,
                                                const std::string& client) const {
  const Class& queue = of(priority);
  if (queue.waiting == 0) return 0;
  const auto own = queue.clients.find(client);
  const bool is_new = own == queue.clients.end();
  const auto clients = static_cast<int64_t>(queue.clients.size()) + (is_new ? 1 : 0);
  const int64_t turns = (is_new ? 0 : own->second) + 1;
  const double share =
      std::min(1.0, static_cast<double>(turns * clients) / static_cast<double>(queue.waiting + 1));
  if (queue.busy_seconds >= kLeastBusySeconds && queue.started_work > 0) {
    return share * static_cast<double>(queue.work) * queue.busy_seconds / queue.started_work;
  }
  if (!rows_per_second_) return std::nullopt;
  return share * static_cast<double>(queue.tokens) / *rows_per_second_;
}

}  // namespace kascade
