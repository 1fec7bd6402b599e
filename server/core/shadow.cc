#include "server/core/shadow.h"

#include <optional>
#include <random>
#include <utility>
#include <variant>

#include "engine/base/clock.h"

namespace kascade::core {
namespace {

using metrics::ShadowKind;
using metrics::ShadowOutcome;

// Background work gets no time while the server is busy; a comparison does not wait for ever.
constexpr absl::Duration kLongestRun = absl::Minutes(10);
// Of the engine's copies of the tokens, and of the values of a step.
constexpr int64_t kBytesPerToken = 64;

double uniform() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return std::uniform_real_distribution<double>(0, 1)(generator);
}

}  // namespace

struct Shadow::Run {
  Run(ShadowKind kind_of_run, MemoryBudget& budget) : kind(kind_of_run), memory(budget) {}

  const ShadowKind kind;
  MemoryBudget::Reservation memory;
  std::optional<SeqId> id{};  // guarded by mutex_
  int64_t tokens = 0;         // compared
  int64_t same_top1 = 0;
  double kl = 0;  // sum, nats
};

bool Shadow::draw(const AttentionChoice& attention) const {
  const double rate = rate_;
  if (rate <= 0 || std::holds_alternative<DenseAttention>(attention)) return false;
  return uniform() < rate;
}

bool Shadow::has_room(const Request& request) const {
  const EngineStats stats = engine_.stats();
  if (stats.block_size == 0) return false;  // nothing was published yet
  const auto tokens = static_cast<int32_t>(request.tokens.size());
  const int32_t blocks = tokens / stats.block_size + 1;
  return stats.waiting == 0 && stats.running <= max_running_ && 2 * blocks <= stats.free_blocks &&
         engine_.check_fits(tokens, 2).ok();
}

std::shared_ptr<Shadow::Run> Shadow::begin(ShadowKind kind, const Request& request) {
  auto run = std::make_shared<Run>(kind, memory_);
  {
    const std::lock_guard lock(mutex_);
    if (running_ != nullptr || stopped_) return nullptr;
    running_ = run;
  }
  const auto bytes = static_cast<int64_t>(request.tokens.size()) * kBytesPerToken;
  if (has_room(request) && run->memory.resize(bytes).ok()) return run;
  end(*run);
  return nullptr;
}

void Shadow::compare(ShadowKind kind, Request request) {
  const std::shared_ptr<Run> run = begin(kind, request);
  if (run == nullptr) return metrics_.shadow.count(ShadowOutcome::kSkipped);
  request.compared_with = std::exchange(request.attention, DenseAttention{});
  request.deadline = steady_now() + kLongestRun;
  const auto id = engine_.submit(std::move(request), {.priority = Priority::kBackground},
                                 [this, run](const Event& event) { take(*run, event); });
  if (!id.ok()) {
    metrics_.shadow.count(ShadowOutcome::kFailed);
    return end(*run);
  }
  const std::lock_guard lock(mutex_);
  run->id = *id;
  if (stopped_) engine_.cancel(*id);
}

void Shadow::take(Run& run, const Event& event) {
  for (const TokenComparison& comparison : event.comparisons) {
    ++run.tokens;
    run.kl += comparison.kl;
    run.same_top1 += comparison.same_top1 ? 1 : 0;
  }
  if (!event.finish) return;
  if (event.finish->status.ok() && run.tokens > 0) {
    metrics_.shadow.observe(run.kind, run.tokens, run.kl, run.same_top1);
  } else {
    metrics_.shadow.count(ShadowOutcome::kFailed);
  }
  end(run);
}

void Shadow::end(const Run& run) {
  const std::lock_guard lock(mutex_);
  if (running_.get() == &run) running_.reset();
}

void Shadow::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  if (running_ != nullptr && running_->id) engine_.cancel(*running_->id);
}

}  // namespace kascade::core
