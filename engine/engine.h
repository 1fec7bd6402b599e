// The public interface of the engine. One thread owns everything mutable; other threads hand it
// requests and receive events. The server includes only this header, what it includes, and
// calibration.h.
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
#include "engine/base/priority.h"
#include "engine/model/config.h"
#include "engine/request.h"
#include "engine/schedule/schedule.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/tokenizer.h"

namespace kascade {

struct EngineOptions {
  std::filesystem::path model_directory{};
  std::string backend = "auto";         // auto, reference, cpu, cuda
  std::string weights = "auto";         // auto, f32, bf16, int8, int4, native
  std::string kv_cache_dtype = "auto";  // auto (f32 with f32 weights, else bf16), f32, bf16, int8
  int32_t threads = 0;                  // 0 = one thread per core that this process may use
  // Binds compute thread i to the i-th CPU that this process may use, where thread 0 is the
  // engine's thread. Refused if there are fewer CPUs than threads.
  bool pin_threads = false;
  // The directory in which packed weights are kept and from which later starts map them. Without a
  // file there, that of the model directory is mapped (packed/int4.packed), and without this too,
  // the weights are packed at each start. A problem with a file becomes a warning in EngineInfo and
  // is never an error.
  std::filesystem::path weights_cache{};
  // Whether the cache also holds a 4-bit copy of the keys (engine/backend/int4_keys.h), which some
  // schedules select by. It takes about an eighth of the memory of bf16 keys and values.
  bool int4_keys = true;
  // Bytes of the paged KV cache. 0 = as much as max_sequences full contexts need, but at most half
  // of the memory that is left at start beside weights and request_memory_bytes.
  int64_t kv_memory_bytes = 0;
  // Bytes that the caller's requests may take beside the engine. The KV cache is sized from what
  // they leave, but half of the memory is left to it however large they are.
  int64_t request_memory_bytes = 0;
  int32_t block_size = 32;         // tokens per cache block
  int32_t max_batch_tokens = 512;  // most rows of one step; ≥ max_sequences + 256
  int32_t max_sequences = 32;      // most running at once; a comparison counts as two
  // While a sequence decodes, the chunk of a prompt is shortened so that the step is not expected
  // to take longer than this, given the durations of earlier steps; 0 = no limit. It changes
  // results no more than the other requests in a batch do
  // (docs/decisions/0029-results-do-not-depend-on-company.md).
  int32_t max_step_ms = 0;
  // Limits of what waits, for interactive and for batch requests separately; whatever exceeds one
  // is refused (engine/scheduler/admission.h): requests, their tokens (0 = 8 × what the cache
  // holds), and for interactive requests the predicted wait (0 = no limit, or
  // kAutomaticWait).
  int32_t max_queue = 256;
  int64_t max_queued_tokens = 0;
  double max_wait_seconds = 0;
  // Percent; see SchedulerLimits (engine/scheduler/scheduler.h).
  int32_t batch_share = 10;
  int32_t background_share = 25;
  // Most memory for the indices of the selected keys of one step. It limits the number of rows that
  // select per query at long contexts.
  int64_t max_selection_bytes = int64_t{128} << 20;
};

// The limits of what waits among EngineOptions: those that can change while the engine runs.
struct QueueLimits {
  int32_t max_queue = 256;
  int64_t max_queued_tokens = 0;
  double max_wait_seconds = 0;
};

// Sequences of one class that wait, preempted ones included.
struct ClassStats {
  int32_t waiting = 0;
  int64_t waiting_tokens = 0;  // that they have yet to feed
};

// A snapshot of the engine's statistics. Counters only grow.
struct EngineStats {
  int64_t steps = 0;
  int64_t rows = 0;           // rows computed, including recomputed ones
  int64_t prompt_tokens = 0;  // of requests that generate
  int64_t generated_tokens = 0;
  int64_t scored_tokens = 0;
  int64_t preemptions = 0;
  int32_t running = 0;  // sequences
  int32_t waiting = 0;
  int64_t waiting_tokens = 0;
  ClassStats classes[kPriorities] = {};  // the parts of these [Priority]
  // How long an interactive request of a client that has none would wait for its first step; 0
  // while that is not known.
  double predicted_wait_seconds = 0;
  int32_t total_blocks = 0;
  int32_t free_blocks = 0;
  int32_t block_size = 0;
  // Keys per KV head, by kind of layer [LayerKind], over all computed rows.
  int64_t keys_attended[kLayerKinds] = {};
  int64_t keys_scored[kLayerKinds] = {};
  int64_t keys_causal = 0;
  // Rows of requests with a schedule that attended to all keys (SelectionSettings::dense_below).
  int64_t dense_rows_of_sparse = 0;
  absl::Duration last_step{};
  absl::Duration step_time{};        // of all steps
  AttentionTimes attention_times{};  // parts of step_time
  // Sums over the steps whose duration was predicted before they ran: all but the first few, and
  // the first few of a calibration.
  double measured_step_seconds = 0;
  double predicted_step_seconds = 0;
  double step_prediction_error_seconds = 0;  // sum of |predicted − measured|
};

// A description of the loaded model. It does not change.
struct EngineInfo {
  std::string backend{};                      // "cpu", "reference"
  std::string device{};                       // as BackendInfo
  std::string instruction_set{};              // as BackendInfo
  std::vector<int32_t> device_ids{};          // as BackendInfo
  WeightFormat weights = WeightFormat::kF32;  // format in use
  DType cache = DType::kF32;
  int32_t threads = 1;
  std::vector<int32_t> cpus{};  // [threads] CPU that each thread is bound to, or empty
  int64_t parameters = 0;
  int64_t mapped_bytes = 0;              // bytes of the mapped checkpoint
  int64_t packed_bytes = 0;              // bytes of weights in the backend's layout
  double bits_per_weight = 0;            // of these
  int64_t kv_bytes_per_token = 0;        // of keys and values
  int64_t int4_key_bytes_per_token = 0;  // of the 4-bit copy of the keys; 0 if there is none
  int64_t kv_pool_bytes = 0;
  absl::Duration load_time{};
  std::string weights_cache{};          // "read FILE", "wrote FILE", or empty
  std::vector<std::string> warnings{};  // each names an option that could not be followed, and why
};

// How a request is admitted.
struct Submission {
  // True for a later part of a request that was admitted before (the next window of a text).
  // Neither a full queue nor draining refuses it.
  bool is_continuation = false;
  // Background requests are calibration and have no queue limit.
  Priority priority = Priority::kInteractive;
  // True for a background run whose steps are timed: while no other work runs, its chunks are not
  // shortened to keep steps short.
  bool has_whole_chunks = false;
  // Who sent it. Clients of one class get equal shares of the service, counted in tokens.
  std::string client{};
};

// The right to submit one request, with its place in the queue. The place is given back if the
// object is destroyed before. The engine must outlive it.
class AdmittedRequest {
 public:
  AdmittedRequest(AdmittedRequest&& other) noexcept;
  AdmittedRequest& operator=(AdmittedRequest&& other) noexcept;
  ~AdmittedRequest();

 private:
  friend class Engine;
  struct Place;
  explicit AdmittedRequest(std::unique_ptr<Place> place);
  std::unique_ptr<Place> place_;
};

class Engine {
 public:
  // Loads the model. NOT_FOUND, INVALID_ARGUMENT and UNIMPLEMENTED name file and field.
  // FAILED_PRECONDITION: kv_memory_bytes is too small for the first chunk of a sequence, or there
  // are fewer CPUs than threads to pin.
  static absl::StatusOr<std::unique_ptr<Engine>> create(const EngineOptions& options);
  // The same with a backend from the caller, which replaces the options backend, weights,
  // kv_cache_dtype and threads.
  static absl::StatusOr<std::unique_ptr<Engine>> create(const EngineOptions& options,
                                                        std::unique_ptr<Backend> backend);
  ~Engine();  // cancels all requests that still run

  // Decides whether a request may join the queue; thread-safe. INVALID_ARGUMENT: a bad field or
  // token, or a prompt longer than the context (names field, limit, value). FAILED_PRECONDITION:
  // scheduled attention without a schedule, or what the cache can never hold. RESOURCE_EXHAUSTED,
  // with the time after which to try again: too much waits. UNAVAILABLE: the engine is draining.
  absl::StatusOr<AdmittedRequest> admit(const Request& request, const Submission& options);
  // Thread-safe. `request` is the one that was admitted, or a shorter one of its kind. `sink` is
  // called on the engine's thread. UNAVAILABLE: the engine has stopped.
  absl::StatusOr<SeqId> submit(Request request, AdmittedRequest admitted, EventSink sink);
  // Both at once.
  absl::StatusOr<SeqId> submit(Request request, EventSink sink);
  absl::StatusOr<SeqId> submit(Request request, const Submission& options, EventSink sink);

  // Thread-safe and idempotent. The sink gets a last event with kCancelled unless the request
  // already finished. May be called from inside a sink; then no further token is computed.
  void cancel(SeqId id);

  // Refuses new requests, waits up to `grace` for the running ones, then cancels them.
  void drain(absl::Duration grace);

  // FAILED_PRECONDITION: so many runs of so many tokens can never be in the cache together.
  absl::Status check_fits(int32_t tokens, int32_t runs) const;
  // FAILED_PRECONDITION: the selection needs the 4-bit copy of the keys, and the cache has none.
  absl::Status check_cache(const SelectionSettings& selection) const;

  // Sets the schedule that default_attention() uses from now on; running requests keep theirs.
  // Thread-safe. Null deactivates the current schedule. FAILED_PRECONDITION: the schedule does not
  // fit the model's shape, was made for another model, or fails check_cache().
  absl::Status activate(std::shared_ptr<const Schedule> schedule);
  std::shared_ptr<const Schedule> active_schedule() const;

  // Requests that wait already stay, whatever the new limits are. INVALID_ARGUMENT names the field
  // and its range; nothing changes then. Thread-safe.
  absl::Status set_queue_limits(const QueueLimits& limits);
  // Those in force; max_queued_tokens is a number of tokens, never 0. Thread-safe.
  QueueLimits queue_limits() const;

  const Tokenizer& tokenizer() const;
  // The chat format of the model, or the reason why it has none (find_chat_format).
  const absl::StatusOr<ChatFormat>& chat_format() const;
  const ModelConfig& model() const;
  const ModelIdentity& identity() const;
  const EngineInfo& info() const;
  EngineStats stats() const;  // thread-safe
  // Layers that steps have computed since the start; it grows during a step. Thread-safe.
  int64_t layers_computed() const;

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_ENGINE_H_
