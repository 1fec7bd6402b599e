// The implementation of Engine: the loaded model, the inbox and the engine's thread. Included by
// engine.cc and engine_admission.cc only.
#ifndef KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_
#define KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/model/transformer.h"
#include "engine/runtime/step_loop.h"
#include "engine/scheduler/admission.h"

namespace kascade {

struct Engine::Impl {
  using Command = std::variant<QueuedRequest, SeqId>;  // admit, or cancel

  Impl(const EngineOptions& options, std::unique_ptr<Tokenizer> model_tokenizer,
       ModelIdentity model_identity, std::unique_ptr<Backend> model_backend,
       std::unique_ptr<Transformer> model, const KvCacheShape& shape);

  void start();
  void stop();  // ends the engine's thread; may be called twice
  void run();   // the body of the engine's thread
  void apply(Command& command);
  static void refuse(SeqId id, const EventSink& sink, const absl::Status& status);
  void update_idle();

  // Takes a place in the queue, unless admission refuses it.
  absl::Status take_place(const QueueEntry& entry, bool is_continuation);
  void give_back(const QueueEntry& entry);  // a place that no request was submitted for
  absl::StatusOr<SeqId> enqueue(QueuedRequest queued);
  void publish(const EngineStats& stats, const QueueChanges& changes);

  // These members are constant after construction, or used by the engine's thread only.
  const ModelConfig config;
  const std::unique_ptr<Tokenizer> tokenizer;
  const absl::StatusOr<ChatFormat> chat_format;
  const ModelIdentity identity;
  EngineInfo info;
  const std::unique_ptr<Backend> backend;
  const std::unique_ptr<Transformer> transformer;
  KvCache cache;
  BlockAllocator blocks;
  std::mutex mutex;  // guards the members from here to `stopping`
  std::condition_variable wake;
  std::condition_variable became_idle;
  std::vector<Command> inbox;
  std::shared_ptr<const Schedule> active;
  Admission admission;
  int32_t places_unused = 0;  // taken for requests that are not submitted yet
  EngineStats published_stats;
  SeqId next_id = 1;
  bool idle = true;
  absl::Time idle_since = absl::InfinitePast();
  bool draining = false;
  bool stopping = false;

  const int32_t max_sequences;
  StepLoop loop;  // used by the engine's thread only; publishes statistics under the mutex

  std::thread thread;
};

struct AdmittedRequest::Place {
  QueueEntry entry{};
  bool has_whole_chunks = false;
  std::function<void(const QueueEntry&)> give_back{};  // null once the queue has the entry

  Place(QueueEntry entered, bool whole_chunks, std::function<void(const QueueEntry&)> back)
      : entry(std::move(entered)), has_whole_chunks(whole_chunks), give_back(std::move(back)) {}
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    if (give_back) give_back(entry);
  }
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_
