// Everything behind the engine's door: the loaded model, the inbox and the engine's thread. For
// engine.cc and calibration_runs.cc only.
#ifndef KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_
#define KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <variant>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/model/checkpoint.h"
#include "engine/model/transformer.h"
#include "engine/runtime/step_loop.h"

namespace kascade {

struct Engine::Impl {
  using Command = std::variant<QueuedRequest, SeqId>;  // admit, or cancel

  Impl(const EngineOptions& options, const ModelConfig& model_config,
       std::unique_ptr<Tokenizer> model_tokenizer, ModelIdentity model_identity,
       std::unique_ptr<Backend> model_backend, Checkpoint checkpoint,
       std::optional<PackedFile> packed, const KvCacheShape& shape);

  void start();
  void stop();  // ends the thread; idempotent
  void run();   // the thread
  void apply(Command& command);
  static void refuse(SeqId id, const EventSink& sink, const absl::Status& status);
  void update_idle();

  absl::StatusOr<SeqId> enqueue(QueuedRequest queued);

  // Constant after construction, or the engine thread's own.
  const ModelConfig config;
  const std::unique_ptr<Tokenizer> tokenizer;
  const absl::StatusOr<ChatFormat> chat_format;
  const ModelIdentity identity;
  EngineInfo info;
  const std::unique_ptr<Backend> backend;
  Transformer transformer;
  KvCache cache;
  BlockAllocator blocks;
  std::mutex mutex;  // guards what follows up to `loop`
  std::condition_variable wake;
  std::condition_variable became_idle;
  std::vector<Command> inbox;
  std::shared_ptr<const Schedule> active;
  const int32_t max_queue;
  EngineStats published_stats;
  // Interactive requests that were accepted but are not among the published figures yet.
  int64_t arriving = 0;
  SeqId next_id = 1;
  bool idle = true;
  bool draining = false;
  bool stopping = false;

  int64_t applied = 0;  // the engine thread's: those of `arriving` that the next figures include
  StepLoop loop;  // the engine thread's; publishes its figures under the mutex

  std::thread thread;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_RUNTIME_ENGINE_IMPL_H_
