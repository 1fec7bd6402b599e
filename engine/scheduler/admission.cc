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
// kAutomaticWait: times that of the first token. Where a prompt takes most of the time, the queue
// holds about so many.
constexpr double kPatience = 2;
// The engine had little to do if interactive work used a smaller share of it lately. Half of the
// requests that it can serve use less than this, since steps with few rows cost more for each.
constexpr double kLittleUsed = 0.25;
constexpr double kStepsRemembered = 16;

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
  KASCADE_CHECK(limits.max_wait_seconds >= 0 || limits.max_wait_seconds == kAutomaticWait);
  KASCADE_CHECK(limits.max_sequences >= 1 && limits.max_batch_tokens >= 1 &&
                limits.block_size >= 1);
  limits_ = limits;
}

absl::Status Admission::check(const QueueEntry& entry, double idle_seconds) {
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
  if (entry.priority != Priority::kInteractive || limits_.max_wait_seconds == 0) {
    return absl::OkStatus();
  }
  return check_wait(entry, idle_seconds);
}

absl::Status Admission::check_wait(const QueueEntry& entry, double idle_seconds) {
  const Class& queue = of(entry.priority);
  if (outlook_.started + queue.waiting < kFewRequests) return absl::OkStatus();
  const bool automatic = limits_.max_wait_seconds == kAutomaticWait;
  const bool little_used = used_share_ * std::exp(-idle_seconds / kMemorySeconds) < kLittleUsed;
  if (automatic && little_used && queue.waiting < limits_.max_sequences) return absl::OkStatus();
  const double wait = predicted_wait(entry).value_or(0);
  const double limit = automatic ? automatic_limit(entry) : limits_.max_wait_seconds;
  if (wait <= limit) return absl::OkStatus();
  return refuse_for(
      reason::kWaitTooLong,
      absl::StrFormat("the request would wait %.2f s, the limit is %.2g s", wait, limit),
      retry_after(entry),
      {{"predicted_wait_seconds", absl::StrFormat("%.2f", wait)},
       {"max_wait_seconds", absl::StrFormat("%.2g", limit)}});
}

double Admission::automatic_limit(const QueueEntry& entry) const {
  const double share = share_before(entry);
  const Class& queue = of(entry.priority);
  const double rows =
      static_cast<double>(outlook_.rows_to_feed) + share * static_cast<double>(queue.tokens);
  const double prompts = outlook_.prompts_to_feed + share * static_cast<double>(queue.waiting);
  const double longest =
      std::max(static_cast<double>(entry.tokens), prompts > 0 ? rows / prompts : 0);
  return kPatience * (step_seconds_ + seconds_of_rows(longest));
}

// By then all that waits now has started, if the prediction is right.
absl::Duration Admission::retry_after(const QueueEntry& entry) {
  const double wait = predicted_wait(entry).value_or(1);
  // Multiples of the golden ratio spread evenly over [0, 1).
  const double position = ++refused_ * kGoldenRatio;
  const double jitter = 1 + kJitter * (position - std::floor(position));
  return absl::Milliseconds(
      std::llround(1000 * jitter * std::clamp(wait, kLeastRetrySeconds, kMostRetrySeconds)));
}

void Admission::enter(const QueueEntry& entry) {
  Class& queue = of(entry.priority);
  ++queue.waiting;
  queue.places += entry.places;
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
  queue.places -= entry.places;
  queue.tokens -= entry.tokens;
  queue.work -= entry.tokens + entry.new_tokens;
}

void Admission::record_step(const Step& step) {
  rows_per_second_ = step.rows_per_second;
  if (!(step.seconds > 0)) return;
  record_use(step);
  step_seconds_ += (step.seconds - step_seconds_) / (step_seconds_ == 0 ? 1 : kStepsRemembered);
  std::array<double, kPriorities> work{};
  for (const QueueEntry& entry : step.started) {
    work[static_cast<size_t>(entry.priority)] +=
        static_cast<double>(entry.tokens + entry.new_tokens);
  }
  const double kept = std::exp(-step.seconds / kMemorySeconds);
  for (const Priority priority : kEveryPriority) {
    Class& queue = of(priority);
    if (queue.waiting == 0) continue;  // the rate was not that of the engine but that of arrivals
    queue.started_work = queue.started_work * kept + work[static_cast<size_t>(priority)];
    queue.busy_seconds = queue.busy_seconds * kept + step.seconds;
  }
}

void Admission::record_use(const Step& step) {
  const double used = std::max(1.0 * outlook_.started / limits_.max_sequences,
                               1.0 * step.interactive_rows / limits_.max_batch_tokens);
  used_share_ *= std::exp(-std::max(0.0, step.idle_seconds) / kMemorySeconds);
  const double kept = std::exp(-step.seconds / kMemorySeconds);
  used_share_ = used_share_ * kept + std::min(1.0, used) * (1 - kept);
}

std::optional<double> Admission::predicted_wait(const QueueEntry& entry) const {
  const bool interactive = entry.priority == Priority::kInteractive;
  return interactive ? wait_by_outlook(entry) : wait_by_rate(entry);
}

// Clients take turns, so the requests before a new one are at most as many of each waiting client
// as its own client has.
double Admission::share_before(const QueueEntry& entry) const {
  const Class& queue = of(entry.priority);
  const auto own = queue.clients.find(entry.client);
  const bool is_new = own == queue.clients.end();
  const auto clients = static_cast<int64_t>(queue.clients.size()) + (is_new ? 1 : 0);
  const int64_t turns = (is_new ? 0 : own->second) + 1;
  return std::min(1.0,
                  static_cast<double>(turns * clients) / static_cast<double>(queue.waiting + 1));
}

std::optional<double> Admission::wait_by_rate(const QueueEntry& entry) const {
  const Class& queue = of(entry.priority);
  if (queue.waiting == 0) return 0;
  const double share = share_before(entry);
  if (queue.busy_seconds >= kLeastBusySeconds && queue.started_work > 0) {
    return share * static_cast<double>(queue.work) * queue.busy_seconds / queue.started_work;
  }
  if (!rows_per_second_) return std::nullopt;
  return share * static_cast<double>(queue.tokens) / *rows_per_second_;
}

// Until there are a place and blocks for the request and for those before it, and until their
// prompts are computed.
std::optional<double> Admission::wait_by_outlook(const QueueEntry& entry) const {
  if (step_seconds_ == 0) return std::nullopt;
  const Class& queue = of(entry.priority);
  const double share = share_before(entry);
  const double tokens = share * static_cast<double>(queue.tokens);
  const double places = std::ceil(share * static_cast<double>(queue.places)) + entry.places;
  const double blocks =
      std::ceil((tokens + static_cast<double>(entry.tokens)) / limits_.block_size);
  const double steps = outlook_.steps_until_free(places, blocks);
  return steps * step_seconds_ +
         seconds_of_rows(static_cast<double>(outlook_.rows_to_feed) + tokens);
}

double Admission::seconds_of_rows(double rows) const {
  return rows_per_second_ ? rows / *rows_per_second_ : 0;
}

}  // namespace kascade
