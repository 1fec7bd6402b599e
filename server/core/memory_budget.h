// Bounds the memory that all requests hold together: their messages, the tokens made from them, and
// replies that clients have not read. Whoever takes memory for a request reserves an upper bound
// first, so that a request is refused instead of the server running out of memory.
#ifndef KASCADE_SERVER_CORE_MEMORY_BUDGET_H_
#define KASCADE_SERVER_CORE_MEMORY_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <new>

#include "absl/status/status.h"
#include "server/metrics/metrics.h"

namespace kascade::core {

// Beside the reasons of engine/base/refusal.h: the engine knows nothing of this memory.
inline constexpr char kMemoryBudgetReason[] = "MEMORY_BUDGET";

// Reservations of at most so many bytes may use all of the budget; larger ones leave an eighth of
// it to them, so that small requests are served while large ones fill it.
inline constexpr int64_t kSmallReservationBytes = int64_t{1} << 20;

// RESOURCE_EXHAUSTED with the reason MEMORY_BUDGET: the operating system gave no memory for a
// request, although the budget had room.
absl::Status no_memory_left();

// Runs `work` and returns what it returns, or no_memory_left() if an allocation in it failed.
template <typename Work>
absl::Status unless_out_of_memory(const Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return no_memory_left();
  }
}

// Thread-safe.
class MemoryBudget {
 public:
  // A part of the budget, returned on destruction. Not thread-safe itself.
  class Reservation {
   public:
    explicit Reservation(MemoryBudget& budget) : budget_(budget) {}
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    ~Reservation() { shrink_to(0); }

    // Becomes `bytes` large; on an error it stays as it is. RESOURCE_EXHAUSTED: the budget is used
    // by others at the moment. FAILED_PRECONDITION: not even all of it would do. Both have the
    // reason MEMORY_BUDGET and tell `needed`, `limit` and `used` [bytes].
    absl::Status resize(int64_t bytes);
    int64_t bytes() const { return bytes_; }

   private:
    void shrink_to(int64_t bytes);

    MemoryBudget& budget_;
    int64_t bytes_ = 0;
  };

  // `limit` in bytes. `metrics` tell the limit and what is used, and must outlive the budget.
  MemoryBudget(int64_t limit, metrics::ServerMetrics& metrics);

  int64_t limit() const { return limit_; }
  int64_t used() const { return used_; }
  // Bytes that were returned since the server started.
  int64_t returned() const { return returned_; }

 private:
  bool take(int64_t bytes, int64_t limit);
  void give_back(int64_t bytes);

  const int64_t limit_;
  metrics::ServerMetrics& metrics_;
  std::atomic<int64_t> used_ = 0;
  std::atomic<int64_t> returned_ = 0;
};

}  // namespace kascade::core

#endif  // KASCADE_SERVER_CORE_MEMORY_BUDGET_H_
