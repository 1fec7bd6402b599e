// The order of precedence of all sequences, and which one of a class starts next.
#ifndef KASCADE_ENGINE_SCHEDULER_SEQUENCE_QUEUE_H_
#define KASCADE_ENGINE_SCHEDULER_SEQUENCE_QUEUE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "engine/scheduler/client_service.h"
#include "engine/scheduler/sequence.h"

namespace kascade {

// A sequence precedes all of a later rank (Sequence::rank()). Within a rank, those that have
// started precede those that have not, in the order of their first starts; the others stand in the
// order of admission, but start in the order of next_to_start(). As long as only the last running
// sequence is preempted, and none starts while a preempted one of its rank waits, running sequences
// of a rank precede waiting ones: the next to be preempted is the last that runs.
class SequenceQueue {
 public:
  // So many sequences that were admitted later may start before a sequence does.
  static constexpr int32_t kMostOvertaking = 256;

  void add(Sequence& sequence);  // not started
  void remove(Sequence& sequence);

  const std::vector<Sequence*>& in_order() const { return sequences_; }
  std::vector<Sequence*> started(Priority rank) const;
  // Of those of the rank that have not started: a promoted one, or the oldest if kMostOvertaking
  // others overtook it, or the oldest one of the client that was served least. Null if there is
  // none.
  Sequence* next_to_start(Priority rank) const;

  // The sequence starts for the first time: it moves behind those that have started, and its client
  // is charged for the tokens that it will feed by then.
  void mark_started(Sequence& sequence);
  // Charges the client for the tokens that were fed beyond those.
  void charge_progress(Sequence& sequence);
  // Moves the batch sequence that is to run next behind the running interactive ones. Returns it,
  // or null if there is none.
  Sequence* promote_first_batch();

 private:
  using Position = std::vector<Sequence*>::iterator;
  ClientService& service_of(const Sequence& sequence) {
    return services_[static_cast<size_t>(sequence.spec.priority)];
  }
  // The first position behind all sequences of earlier ranks, and of this rank that have started.
  Position end_of_started(Priority rank);

  std::vector<Sequence*> sequences_;
  std::array<ClientService, kPriorities> services_{};
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_SCHEDULER_SEQUENCE_QUEUE_H_
