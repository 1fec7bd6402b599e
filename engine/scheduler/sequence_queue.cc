#include "engine/scheduler/sequence_queue.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include "engine/base/check.h"

namespace kascade {

SequenceQueue::Position SequenceQueue::end_of_started(Priority rank) {
  return std::ranges::find_if(sequences_, [rank](const Sequence* other) {
    return other->rank() > rank || (other->rank() == rank && !other->has_started);
  });
}

void SequenceQueue::add(Sequence& sequence) {
  KASCADE_CHECK(!sequence.has_started && !sequence.promoted);
  const auto place = std::ranges::upper_bound(sequences_, sequence.spec.priority, {},
                                              [](const Sequence* other) { return other->rank(); });
  sequences_.insert(place, &sequence);
  service_of(sequence).enter(sequence.spec.client);
}

void SequenceQueue::remove(Sequence& sequence) {
  const size_t removed = std::erase(sequences_, &sequence);
  KASCADE_CHECK(removed == 1);
  service_of(sequence).leave(sequence.spec.client);
}

std::vector<Sequence*> SequenceQueue::started(Priority rank) const {
  std::vector<Sequence*> result;
  std::ranges::copy_if(sequences_, std::back_inserter(result), [rank](const Sequence* sequence) {
    return sequence->rank() == rank && sequence->has_started;
  });
  return result;
}

Sequence* SequenceQueue::next_to_start(Priority rank) const {
  const ClientService& services = services_[static_cast<size_t>(rank)];
  Sequence* best = nullptr;
  int64_t least = 0;
  bool is_oldest = true;
  for (Sequence* sequence : sequences_) {
    if (sequence->rank() != rank || sequence->has_started) continue;
    if (sequence->promoted) return sequence;
    if (is_oldest && sequence->overtaken >= kMostOvertaking) return sequence;
    is_oldest = false;
    const int64_t service = services.service(sequence->spec.client);
    if (best != nullptr && service >= least) continue;
    best = sequence;
    least = service;
  }
  return best;
}

void SequenceQueue::mark_started(Sequence& sequence) {
  KASCADE_CHECK(!sequence.has_started);
  const auto oldest = end_of_started(sequence.rank());
  if (*oldest != &sequence) ++(*oldest)->overtaken;
  const auto place = std::find(oldest, sequences_.end(), &sequence);
  std::rotate(oldest, place, place + 1);
  sequence.has_started = true;
  sequence.charged = sequence.feed_end();
  service_of(sequence).charge(sequence.spec.client,
                              int64_t{sequence.charged} * sequence.spec.branches);
}

void SequenceQueue::charge_progress(Sequence& sequence) {
  const int32_t tokens = sequence.computed - sequence.charged;
  if (tokens <= 0) return;
  sequence.charged = sequence.computed;
  service_of(sequence).charge(sequence.spec.client, int64_t{tokens} * sequence.spec.branches);
}

Sequence* SequenceQueue::promote_first_batch() {
  const auto is_started_batch = [](const Sequence* sequence) {
    return sequence->rank() == Priority::kBatch && sequence->has_started;
  };
  const auto found = std::ranges::find_if(sequences_, is_started_batch);
  Sequence* first = found != sequences_.end() ? *found : next_to_start(Priority::kBatch);
  if (first == nullptr) return nullptr;
  std::erase(sequences_, first);
  // A running sequence must stand before those that wait after a preemption, and another one behind
  // them.
  auto place = end_of_started(Priority::kInteractive);
  while (first->running() && place != sequences_.begin() && !(*(place - 1))->running()) --place;
  first->promoted = true;
  sequences_.insert(place, first);
  return first;
}

}  // namespace kascade
