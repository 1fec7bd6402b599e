// The implementation of Engine: the loaded model, the inbox and the engine's thread. Included by
// engine.cc only.
#ifndef KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_
#define KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/model/transformer.h"
#include "engine/runtime/step_loop.h"

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

  absl::StatusOr<SeqId> enqueue(QueuedRequest queued);

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
  const int32_t max_queue;
  EngineStats published_stats;
  // Interactive requests that were accepted but are not in the published statistics yet.
  int64_t arriving = 0;
  SeqId next_id = 1;
  bool idle = true;
  bool draining = false;
  bool stopping = false;

  // Used by the engine's thread only: the requests of `arriving` that the next statistics include.
  int64_t applied = 0;
  StepLoop loop;  // used by the engine's thread only; publishes statistics under the mutex

  std::thread thread;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_
