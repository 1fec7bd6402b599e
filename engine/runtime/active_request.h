// The runtime's records of a request, before and after it is admitted to the scheduler.
#ifndef KASCADE_ENGINE_RUNTIME_ACTIVE_REQUEST_H_
#define KASCADE_ENGINE_RUNTIME_ACTIVE_REQUEST_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "engine/request.h"
#include "engine/scheduler/admission.h"
#include "engine/scheduler/sequence.h"

namespace kascade {

// A valid request that waits to be admitted to the scheduler.
struct QueuedRequest {
  SeqId id = 0;
  Request request{};
  QueueEntry entry{};  // as it was admitted
  bool has_whole_chunks = false;
  EventSink sink{};
};

// The runtime's data of an admitted request; its tokens are in the Sequence.
class ActiveRequest final : public SequenceAttachment {
 public:
  ActiveRequest(QueuedRequest queued, int32_t prompt, int32_t runs, absl::Time now)
      : task(std::move(queued.request.task)),
        sink(std::move(queued.sink)),
        entry(std::move(queued.entry)),
        prompt_tokens(prompt),
        counts(static_cast<size_t>(runs)),
        counted_until(static_cast<size_t>(runs), 0),
        admitted(now) {}

  static ActiveRequest& of(const Sequence& sequence) {
    return static_cast<ActiveRequest&>(*sequence.attachment);
  }

  const std::variant<Generate, Score, Observe> task;
  const EventSink sink;
  const QueueEntry entry;
  const int32_t prompt_tokens;
  std::vector<AttentionCounts> counts;  // [runs]
  std::vector<int32_t> counted_until;   // [runs] rows before it are counted already
  const absl::Time admitted;
  absl::Time started = absl::InfiniteFuture();
  absl::Time prefilled = absl::InfiniteFuture();
  std::optional<Finish> finish{};
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_ACTIVE_REQUEST_H_
