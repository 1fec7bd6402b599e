// The engine's door: one thread that owns everything mutable; others hand it requests and receive
// events. The only engine header, with those it includes and calibration.h, that the server sees.
#ifndef KASCADE_ENGINE_ENGINE_H_
#define KASCADE_ENGINE_ENGINE_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/attention/policy.h"
#include "engine/model/config.h"
#include "engine/request.h"
#include "engine/schedule/schedule.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade {

struct EngineOptions {
  std::filesystem::path model_directory{};
  std::string backend = "auto";         // auto, reference, cpu, cuda
  std::string weights = "auto";         // auto, f32, bf16, int8, int4
  std::string kv_cache_dtype = "auto";  // auto (f32 with f32 weights, else bf16), f32, bf16, int8
  int32_t threads = 0;                  // 0 = one per core that this process may use
  // Binds compute thread i to the i-th CPU that this process may use; the engine's thread is the
  // first. Refused if there are fewer CPUs.
  bool pin_threads = false;
  // Keeps packed weights here and maps them at later starts; empty = packs at each. What is wrong
  // with it is a warning (EngineInfo) and nothing more.
  std::filesystem::path weights_cache{};
  // Bytes of the paged KV cache; 0 = what max_sequences full contexts need, at most a quarter of
  // the memory that is available at start.
  int64_t kv_memory_bytes = 0;
  int32_t block_size = 32;         // tokens per cache block
  int32_t max_batch_tokens = 512;  // rows of one step; ≥ max_sequences + 256
  int32_t max_sequences = 32;      // running at once; a comparison counts as two
  // While a sequence decodes, a prompt's chunk is cut so that the step is expected to take no
  // longer, by what was learned from earlier steps; 0 = no limit. Changes results no more than
  // other requests' company does (docs/decisions/0029-results-do-not-depend-on-company.md).
  // Calibration's steps take longer than predicted.
  int32_t max_step_ms = 0;
  int32_t max_queue = 256;  // waiting; more are refused
  // Most memory for the selected key indices of one step; bounds its row-rule rows at long
  // contexts.
  int64_t max_selection_bytes = int64_t{128} << 20;
};

// A snapshot; counters only grow.
struct EngineStats {
  int64_t steps = 0;
  int64_t rows = 0;           // computed, recomputation included
  int64_t prompt_tokens = 0;  // of sequences that generate
  int64_t generated_tokens = 0;
  int64_t scored_tokens = 0;
  int64_t preemptions = 0;
  int32_t running = 0;  // sequences
  int32_t waiting = 0;
  int32_t waiting_background = 0;  // of these, calibration's
  int64_t waiting_tokens = 0;
  int32_t total_blocks = 0;
  int32_t free_blocks = 0;
  int32_t block_size = 0;
  // Keys per KV head by kind of layer [LayerKind], over all rows that were computed.
  int64_t keys_attended[kLayerKinds] = {};
  int64_t keys_scored[kLayerKinds] = {};
  int64_t keys_causal = 0;
  absl::Duration last_step{};
  // Sums over the steps whose time was predicted before they ran (all but the first few, and
  // calibration's).
  double measured_step_seconds = 0;
  double predicted_step_seconds = 0;
  double step_prediction_error_seconds = 0;  // of what each was off by, without the sign
};

// What was loaded; constant.
struct EngineInfo {
  std::string backend{};                      // "cpu", "reference"
  WeightFormat weights = WeightFormat::kF32;  // as computed with
  DType cache = DType::kF32;
  int32_t threads = 1;
  std::vector<int32_t> cpus{};  // [threads] that they are bound to, or empty
  int64_t parameters = 0;
  int64_t mapped_bytes = 0;  // of the checkpoint
  int64_t packed_bytes = 0;  // of weights in the backend's layout
  int64_t kv_bytes_per_token = 0;
  int64_t kv_pool_bytes = 0;
  absl::Duration load_time{};
  std::string weights_cache{};          // "read FILE", "wrote FILE", or empty
  std::vector<std::string> warnings{};  // what did not go as the options ask, and why
};

// How a request is admitted.
struct Submission {
  // A later part of a request that was admitted before (the next window of a text): neither a full
  // queue nor draining refuses it.
  bool is_continuation = false;
  bool background = false;  // calibration: after all other requests, not counted in their queue
};

class Engine {
 public:
  // Loads the model. NOT_FOUND, INVALID_ARGUMENT, UNIMPLEMENTED name file and field;
  // FAILED_PRECONDITION: kv_memory_bytes below one sequence's first chunk, fewer CPUs than threads
  // to pin.
  static absl::StatusOr<std::unique_ptr<Engine>> create(const EngineOptions& options);
  // The same with a backend of the caller's in place of options.backend (and its weights, cache
  // and threads).
  static absl::StatusOr<std::unique_ptr<Engine>> create(const EngineOptions& options,
                                                        std::unique_ptr<Backend> backend);
  ~Engine();  // cancels what still runs

  // Thread-safe. `sink` is called on the engine's thread. INVALID_ARGUMENT: bad field or token,
  // prompt longer than the context (names field, limit, value). FAILED_PRECONDITION: scheduled
  // attention without a schedule. RESOURCE_EXHAUSTED: queue full. UNAVAILABLE: draining. What only
  // the scheduler can tell (FAILED_PRECONDITION: can never fit the cache) comes as the last event's
  // status.
  absl::StatusOr<SeqId> submit(Request request, EventSink sink);
  absl::StatusOr<SeqId> submit(Request request, Submission how, EventSink sink);

  // Thread-safe, idempotent. The sink gets a last event with kCancelled unless it already finished;
  // may be called from inside a sink (no further token is computed then).
  void cancel(SeqId id);

  // Refuses new requests, waits up to `grace` for the running ones, then cancels them.
  void drain(absl::Duration grace);

  // The schedule that default_attention() is to use from now on; running requests keep theirs.
  // Thread-safe. FAILED_PRECONDITION when it does not fit the model's shape or is another model's.
  // Null deactivates.
  absl::Status activate(std::shared_ptr<const Schedule> schedule);
  std::shared_ptr<const Schedule> active_schedule() const;

  const Tokenizer& tokenizer() const;
  // The model's own; why not otherwise (find_chat_format).
  const absl::StatusOr<ChatFormat>& chat_format() const;
  const ModelConfig& model() const;
  const ModelIdentity& identity() const;
  const EngineInfo& info() const;
  EngineStats stats() const;  // thread-safe

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_ENGINE_H_
