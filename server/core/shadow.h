// Compares a sample of the sparse requests with dense attention after they ended, so that an
// operator sees when a schedule no longer fits the texts that clients send.
#ifndef KASCADE_SERVER_CORE_SHADOW_H_
#define KASCADE_SERVER_CORE_SHADOW_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "engine/engine.h"
#include "server/core/memory_budget.h"
#include "server/metrics/metrics.h"

namespace kascade::core {

// Thread-safe. What is compared is kept until the comparison ends, and no longer; only the figures
// go to the metrics.
class Shadow {
 public:
  // All references outlive the object. No comparison begins while more than `max_running` sequences
  // run.
  Shadow(Engine& engine, MemoryBudget& memory, metrics::ServerMetrics& metrics, double rate,
         int32_t max_running)
      : engine_(engine),
        memory_(memory),
        metrics_(metrics),
        max_running_(max_running),
        rate_(rate) {}
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  // Share of the requests that draw() picks, [0, 1].
  void set_rate(double rate) { rate_ = rate; }
  // Whether to compare a request with this attention once it has ended; never if it is dense.
  bool draw(const AttentionChoice& attention) const;

  // Runs a sparse request that ended once more, in the background class: its task is a Score of
  // the tokens to compare, and dense attention runs beside its own. At most one comparison runs at
  // a time. It is skipped while another one runs, while requests wait or more than max_running
  // run, and if the free blocks of the KV cache or the memory of requests do not suffice. May be
  // called from a sink.
  void compare(metrics::ShadowKind kind, Request request);

  // Ends the comparison that runs, and begins no other. Idempotent.
  void stop();

 private:
  struct Run;

  // A run with memory, as the only one; null if there is no room.
  std::shared_ptr<Run> begin(metrics::ShadowKind kind, const Request& request);
  bool has_room(const Request& request) const;
  void take(Run& run, const Event& event);
  void end(const Run& run);

  Engine& engine_;
  MemoryBudget& memory_;
  metrics::ServerMetrics& metrics_;
  const int32_t max_running_;
  std::atomic<double> rate_;

  std::mutex mutex_;  // guards what follows
  std::shared_ptr<Run> running_;
  bool stopped_ = false;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_SHADOW_H_
