// Whether a request may join the queue, decided before anything is computed or sent for it: by the
// number of waiting requests, by their tokens, and by how long it would wait. It has no clock and
// is told the durations of steps and of the pauses between them.
#ifndef KASCADE_ENGINE_SCHEDULER_ADMISSION_H_
#define KASCADE_ENGINE_SCHEDULER_ADMISSION_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/base/priority.h"
#include "engine/cache/blocks.h"
#include "engine/scheduler/place_outlook.h"

namespace kascade {

// FAILED_PRECONDITION, with the limit and the value: `branches` runs of `tokens` tokens each can
// never be in the cache together, or are more than max_sequences.
absl::Status check_fits(int32_t tokens, int32_t branches, const BlockAllocator& blocks,
                        int32_t max_sequences);

struct AdmissionLimits {
  int32_t max_queue = 256;        // requests of one class that wait; ≥ 1
  int64_t max_queued_tokens = 0;  // of the waiting requests of one class; ≥ 1
  // An interactive request is refused if it is predicted to wait longer; 0 = no limit, or
  // kAutomaticWait.
  double max_wait_seconds = 0;
  // Places of running sequences; ≥ 1. Under kAutomaticWait so many requests may wait if the engine
  // had little to do.
  int32_t max_sequences = 32;
  int32_t max_batch_tokens = 512;  // rows of a full step; ≥ 1
  int32_t block_size = 32;         // tokens; ≥ 1
};

// While the engine has fewer interactive requests, none is refused for its wait, so that a
// prediction that is too high cannot leave the engine without work.
inline constexpr int64_t kFewRequests = 10;

// A request in the queue.
struct QueueEntry {
  Priority priority = Priority::kInteractive;
  std::string client{};
  int32_t places = 1;      // runs
  int64_t tokens = 0;      // of the prompt or text, of all runs
  int64_t new_tokens = 0;  // most that it generates
};

// Requests count from their admission to the step in which they start. Preempted sequences do not
// count.
class Admission {
 public:
  explicit Admission(const AdmissionLimits& limits) { set_limits(limits); }

  // For requests from now on; what waits stays.
  void set_limits(const AdmissionLimits& limits);
  const AdmissionLimits& limits() const { return limits_; }

  // RESOURCE_EXHAUSTED with the reason, the limit, the value and the time after which to try again.
  // A request is never refused for its tokens if no other of its class waits. Background work is
  // never refused. The engine has had nothing to do for `idle_seconds`.
  absl::Status check(const QueueEntry& entry, double idle_seconds = 0);
  void enter(const QueueEntry& entry);
  void leave(const QueueEntry& entry);

  struct Step {
    double seconds = 0;                     // its duration
    double idle_seconds = 0;                // between it and the step before
    int32_t interactive_rows = 0;           // computed in it
    std::span<const QueueEntry> started{};  // left the queue in it
    // How fast prompts are computed according to the step-time forecast, if that is known.
    std::optional<double> rows_per_second{};
  };
  void record_step(const Step& step);
  // What the sequences that have started leave to those that wait now.
  void set_outlook(PlaceOutlook outlook) { outlook_ = std::move(outlook); }

  // How long a request would wait for its first step. Unset until that can be told.
  std::optional<double> predicted_wait(const QueueEntry& entry) const;
  int64_t waiting(Priority priority) const { return of(priority).waiting; }
  int64_t queued_tokens(Priority priority) const { return of(priority).tokens; }

 private:
  struct Class {
    int64_t waiting = 0;
    int64_t places = 0;
    int64_t tokens = 0;
    int64_t work = 0;                          // tokens and new tokens
    std::map<std::string, int64_t> clients{};  // requests that each client has waiting
    // Sums over the steps after which requests still waited, where older steps count less: the work
    // that started, and the seconds.
    double started_work = 0;
    double busy_seconds = 0;
  };

  Class& of(Priority priority) { return classes_[static_cast<size_t>(priority)]; }
  const Class& of(Priority priority) const { return classes_[static_cast<size_t>(priority)]; }
  absl::Duration retry_after(const QueueEntry& entry);
  absl::Status check_wait(const QueueEntry& entry, double idle_seconds);
  // The share of the waiting requests of its class that start before a new request.
  double share_before(const QueueEntry& entry) const;
  std::optional<double> wait_by_rate(const QueueEntry& entry) const;
  std::optional<double> wait_by_outlook(const QueueEntry& entry) const;
  double seconds_of_rows(double rows) const;
  // The limit that kAutomaticWait stands for.
  double automatic_limit(const QueueEntry& entry) const;
  void record_use(const Step& step);

  AdmissionLimits limits_{};
  std::array<Class, kPriorities> classes_{};
  PlaceOutlook outlook_{};
  std::optional<double> rows_per_second_{};
  double step_seconds_ = 0;  // average of the last steps; 0 = there was none
  // Share of the places or of the rows of full steps, whichever is more, that interactive work took
  // on average; older times count less.
  double used_share_ = 0;
  uint32_t refused_ = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_ADMISSION_H_
