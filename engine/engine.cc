#include "engine/engine.h"

#include <algorithm>
#include <condition_variable>
#include <future>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/clock.h"
#include "engine/base/refusal.h"
#include "engine/model/folder_check.h"
#include "engine/model/weights_cache.h"
#include "engine/runtime/cache_shape.h"
#include "engine/runtime/engine_impl.h"

namespace kascade {
namespace {

QueueLimits queue_limits_of(const EngineOptions& options) {
  return {.max_queue = options.max_queue,
          .max_queued_tokens = options.max_queued_tokens,
          .max_wait_seconds = options.max_wait_seconds};
}

absl::Status check_queue_limits(const QueueLimits& limits) {
  absl::Status status = check_range("max_queue", limits.max_queue, 1, 1 << 20);
  status.Update(check_range("max_queued_tokens", limits.max_queued_tokens, 0,
                            std::numeric_limits<int64_t>::max()));
  if (limits.max_wait_seconds != kAutomaticWait) {
    status.Update(check_range("max_wait_seconds", limits.max_wait_seconds, 0, 86400));
  }
  return status;
}

absl::Status check_queue_options(const EngineOptions& options) {
  absl::Status status = check_queue_limits(queue_limits_of(options));
  status.Update(check_range("batch_share", options.batch_share, 1, 50));
  status.Update(check_range("background_share", options.background_share, 0, 1000));
  return status;
}

// `cache_tokens`: what the KV cache holds.
void apply(const QueueLimits& limits, int64_t cache_tokens, AdmissionLimits& admission) {
  admission.max_queue = limits.max_queue;
  admission.max_queued_tokens =
      limits.max_queued_tokens > 0 ? limits.max_queued_tokens : 8 * cache_tokens;
  admission.max_wait_seconds = limits.max_wait_seconds;
}

AdmissionLimits admission_limits(const EngineOptions& options, const KvCacheShape& shape) {
  AdmissionLimits limits{.max_sequences = options.max_sequences,
                         .max_batch_tokens = options.max_batch_tokens,
                         .block_size = shape.block_size};
  apply(queue_limits_of(options), int64_t{shape.blocks} * shape.block_size, limits);
  return limits;
}

absl::Status check_options(const EngineOptions& options) {
  const auto outside = [](const char* field, int64_t low, int64_t high, int64_t value) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": must be in [", low, ", ", high, "], got ", value));
  };
  if (options.max_sequences < 1 || options.max_sequences > 4096) {
    return outside("max_sequences", 1, 4096, options.max_sequences);
  }
  const int32_t least_rows = options.max_sequences + 256;
  if (options.max_batch_tokens < least_rows || options.max_batch_tokens > 65536) {
    return outside("max_batch_tokens", least_rows, 65536, options.max_batch_tokens);
  }
  if (absl::Status status = check_queue_options(options); !status.ok()) return status;
  if (options.block_size < 1 || options.block_size > 1024) {
    return outside("block_size", 1, 1024, options.block_size);
  }
  if (options.threads < 0 || options.threads > 1024) {
    return outside("threads", 0, 1024, options.threads);
  }
  if (options.max_step_ms < 0 || options.max_step_ms > 3'600'000) {
    return outside("max_step_ms", 0, 3'600'000, options.max_step_ms);
  }
  absl::Status memory = check_range("kv_memory_bytes", options.kv_memory_bytes, 0,
                                    std::numeric_limits<int64_t>::max());
  memory.Update(check_range("request_memory_bytes", options.request_memory_bytes, 0,
                            std::numeric_limits<int64_t>::max()));
  if (!memory.ok()) return memory;
  if (auto format = weight_format_named(options.weights); !format.ok()) return format.status();
  return cache_dtype_named(options.kv_cache_dtype).status();
}

absl::StatusOr<ModelIdentity> identify(const std::filesystem::path& directory,
                                       const ModelConfig& config, const Checkpoint& checkpoint) {
  auto config_digest = file_digest(directory / "config.json");
  if (!config_digest.ok()) return config_digest.status();
  const auto tokenizer_file = find_tokenizer_file(directory);
  if (!tokenizer_file.ok()) return tokenizer_file.status();
  auto tokenizer_digest = file_digest(*tokenizer_file);
  if (!tokenizer_digest.ok()) return tokenizer_digest.status();
  return ModelIdentity{config.name, checkpoint.weights_digest, *std::move(config_digest),
                       *std::move(tokenizer_digest)};
}

// The tokenizer may know ids that the model has no row for; whoever meets one in a text is refused
// (PromptEncoder in server/core). Only what every text begins with must be there.
absl::Status check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config) {
  for (const Token token : tokenizer.prefix_tokens()) {
    if (token < config.vocab) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer begins every text with token ", token, " (",
                     std::string(tokenizer.token_text(token)),
                     "), but config.json's vocab_size is ", config.vocab));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Backend>> open_backend_of(const EngineOptions& options,
                                                         DType checkpoint_dtype) {
  auto format = weight_format_named(options.weights);
  if (!format.ok()) return format.status();
  auto cache = cache_dtype_named(options.kv_cache_dtype);
  if (!cache.ok()) return cache.status();
  return open_backend({.name = options.backend,
                       .weights = *format,
                       .cache = *cache,
                       .checkpoint_dtype = checkpoint_dtype,
                       .cpu = {.count = options.threads, .pin = options.pin_threads}});
}

}  // namespace

// ---- Loading ----

absl::StatusOr<std::unique_ptr<Engine>> Engine::create(const EngineOptions& options) {
  return create(options, nullptr);
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::create(const EngineOptions& options,
                                                       std::unique_ptr<Backend> own_backend) {
  const absl::Time begin = steady_now();
  if (absl::Status status = check_options(options); !status.ok()) return status;
  if (auto found = check_model_folder(options.model_directory); !found.ok()) return found;
  auto config = load_config(options.model_directory);
  if (!config.ok()) return config.status();
  auto tokenizer = open_tokenizer(options.model_directory);
  if (!tokenizer.ok()) return tokenizer.status();
  if (absl::Status status = check_tokenizer(**tokenizer, *config); !status.ok()) return status;
  auto checkpoint = open_checkpoint(options.model_directory, *config);
  if (!checkpoint.ok()) return checkpoint.status();
  auto identity = identify(options.model_directory, *config, *checkpoint);
  if (!identity.ok()) return identity.status();
  absl::StatusOr<std::unique_ptr<Backend>> backend = std::move(own_backend);
  if (*backend == nullptr) backend = open_backend_of(options, checkpoint->dtype);
  if (!backend.ok()) return backend.status();

  // The cache takes what the weights leave.
  WeightsCache packed(options.weights_cache, options.model_directory, *config, *checkpoint,
                      **backend);
  auto transformer = std::make_unique<Transformer>(*config, *std::move(checkpoint), **backend,
                                                   options.max_batch_tokens, packed.take());
  packed.keep(*transformer);
  const auto shape = cache_shape(
      options, *config, (*backend)->precision().cache,
      memory_left(free_memory(), transformer->mapped_weight_bytes(), options.request_memory_bytes));
  if (!shape.ok()) return shape.status();
  auto impl = std::make_unique<Impl>(options, *std::move(tokenizer), *std::move(identity),
                                     *std::move(backend), std::move(transformer), *shape);
  if (!impl->cache.allocated()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "kv_memory_bytes: the operating system refused ", impl->info.kv_pool_bytes, " bytes"));
  }
  impl->info.weights_cache = packed.outcome();
  impl->info.warnings = packed.warnings();
  impl->info.load_time = steady_now() - begin;
  impl->start();
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() { impl_->stop(); }

Engine::Impl::Impl(const EngineOptions& options, std::unique_ptr<Tokenizer> model_tokenizer,
                   ModelIdentity model_identity, std::unique_ptr<Backend> model_backend,
                   std::unique_ptr<Transformer> model, const KvCacheShape& shape)
    : config(model->config()),
      tokenizer(std::move(model_tokenizer)),
      chat_format(find_chat_format(options.model_directory, *tokenizer)),
      identity(std::move(model_identity)),
      backend(std::move(model_backend)),
      transformer(std::move(model)),
      cache(shape, *backend),
      blocks(shape.blocks, shape.block_size),
      admission(admission_limits(options, shape)),
      max_sequences(options.max_sequences),
      loop({.max_batch_tokens = options.max_batch_tokens,
            .max_sequences = options.max_sequences,
            // A text to score may be one token longer: its last token is never fed.
            .context = config.context + 1,
            .max_step_seconds = options.max_step_ms / 1e3,
            .batch_share = options.batch_share,
            .background_share = options.background_share},
           options.max_selection_bytes, *transformer, cache, blocks,
           [this](const EngineStats& stats, const QueueChanges& changes) {
             publish(stats, changes);
           }) {
  const BackendInfo backend_info = backend->info();
  info.backend = backend_info.name;
  info.device = backend_info.device;
  info.instruction_set = backend_info.instruction_set;
  info.device_ids = backend_info.device_ids;
  info.weights = backend->precision().weights;
  info.cache = backend->precision().cache;
  info.threads = backend_info.threads;
  info.cpus = backend_info.cpus;
  info.parameters = config.parameters();
  info.mapped_bytes = transformer->mapped_bytes();
  info.packed_bytes = transformer->packed_bytes();
  double weights = 0;
  for (const Matrix* matrix : transformer->matrices()) {
    weights +=
        static_cast<double>(matrix->out_features()) * static_cast<double>(matrix->in_features());
  }
  info.bits_per_weight = 8 * static_cast<double>(info.packed_bytes) / weights;
  info.kv_bytes_per_token = shape.bytes_per_token();
  info.int4_key_bytes_per_token =
      (shape.int4_block_bytes() + shape.block_size - 1) / shape.block_size;
  info.kv_pool_bytes = shape.block_bytes() * shape.blocks;
}

// ---- The engine's thread ----

void Engine::Impl::start() {
  std::promise<absl::Status> attached;
  std::future<absl::Status> outcome = attached.get_future();
  thread = std::thread([this, &attached] {
    attached.set_value(backend->attach_thread());
    run();
  });
  for (std::string& warning : backend->info().warnings) info.warnings.push_back(std::move(warning));
  const absl::Status refused = outcome.get();
  if (!refused.ok()) info.warnings.push_back(absl::StrCat("pin_threads: ", refused.message()));
}

void Engine::Impl::stop() {
  {
    const std::lock_guard lock(mutex);
    stopping = true;
    draining = true;
  }
  wake.notify_all();
  if (thread.joinable()) thread.join();
}

void Engine::Impl::run() {
  bool busy = false;
  while (true) {
    std::vector<Command> commands;
    {
      std::unique_lock lock(mutex);
      wake.wait(lock, [&] { return busy || stopping || !inbox.empty(); });
      if (stopping) break;
      commands.swap(inbox);
    }
    for (Command& command : commands) apply(command);
    loop.step(steady_now);
    busy = !loop.idle();
    update_idle();
  }
  const absl::Status stopped = absl::CancelledError("the server is stopping");
  loop.end_all(FinishReason::kCancelled, stopped);
  std::vector<Command> unseen;
  {
    const std::lock_guard lock(mutex);
    unseen.swap(inbox);
  }
  for (Command& command : unseen) {
    if (const auto* queued = std::get_if<QueuedRequest>(&command)) {
      refuse(queued->id, queued->sink, stopped);
    }
  }
  update_idle();
}

void Engine::Impl::apply(Command& command) {
  if (auto* queued = std::get_if<QueuedRequest>(&command)) {
    const SeqId id = queued->id;
    const EventSink sink = queued->sink;
    const QueueEntry entry = queued->entry;
    const absl::Status status = loop.admit(std::move(*queued), steady_now());
    if (status.ok()) return;
    {
      const std::lock_guard lock(mutex);
      admission.leave(entry);
    }
    refuse(id, sink, status);
  } else {
    loop.end(std::get<SeqId>(command), FinishReason::kCancelled, absl::CancelledError("cancelled"));
  }
}

void Engine::Impl::refuse(SeqId id, const EventSink& sink, const absl::Status& status) {
  Event event{.seq = id};
  event.finish =
      Finish{.reason = absl::IsCancelled(status) ? FinishReason::kCancelled : FinishReason::kError,
             .status = status};
  sink(event);
}

void Engine::Impl::update_idle() {
  const std::lock_guard lock(mutex);
  const bool was_idle = std::exchange(idle, loop.idle() && inbox.empty());
  if (idle && !was_idle) idle_since = steady_now();
  if (idle) became_idle.notify_all();
}

// ---- Public interface ----

void Engine::cancel(SeqId id) {
  const std::lock_guard lock(impl_->mutex);
  impl_->inbox.emplace_back(id);
  impl_->wake.notify_one();
}

void Engine::drain(absl::Duration grace) {
  std::unique_lock lock(impl_->mutex);
  impl_->draining = true;
  const auto idle = [this] { return impl_->idle && impl_->places_unused == 0; };
  if (impl_->became_idle.wait_for(lock, absl::ToChronoNanoseconds(grace), idle)) return;
  lock.unlock();
  impl_->stop();
}

absl::Status Engine::check_cache(const SelectionSettings& selection) const {
  if (!selection.int4_keys || impl_->info.int4_key_bytes_per_token > 0) return absl::OkStatus();
  return kascade::refuse(
      absl::StatusCode::kFailedPrecondition,
      "selection.int4_keys: the schedule selects by the 4-bit copy of the keys, which this server "
      "does not keep (--int4-keys off)",
      {.reason = reason::kPrecondition,
       .subject = "int4_keys",
       .remedy = "start the server with --int4-keys on, or choose another schedule"});
}

absl::Status Engine::activate(std::shared_ptr<const Schedule> schedule) {
  if (schedule) {
    if (absl::Status status = check_cache(schedule->selection); !status.ok()) return status;
    const ScheduleShape shape{impl_->config.layers, impl_->config.kv_heads};
    if (absl::Status status = check_model(*schedule, impl_->identity); !status.ok()) return status;
    if (absl::Status status = validate(*schedule, shape); !status.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("the schedule does not fit this model: ", status.message()));
    }
  }
  const std::lock_guard lock(impl_->mutex);
  impl_->active = std::move(schedule);
  return absl::OkStatus();
}

std::shared_ptr<const Schedule> Engine::active_schedule() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->active;
}

absl::Status Engine::set_queue_limits(const QueueLimits& limits) {
  if (absl::Status status = check_queue_limits(limits); !status.ok()) return status;
  const std::lock_guard lock(impl_->mutex);
  AdmissionLimits changed = impl_->admission.limits();
  apply(limits, int64_t{impl_->blocks.total_blocks()} * impl_->blocks.block_size(), changed);
  impl_->admission.set_limits(changed);
  return absl::OkStatus();
}

QueueLimits Engine::queue_limits() const {
  const std::lock_guard lock(impl_->mutex);
  const AdmissionLimits& limits = impl_->admission.limits();
  return {.max_queue = limits.max_queue,
          .max_queued_tokens = limits.max_queued_tokens,
          .max_wait_seconds = limits.max_wait_seconds};
}

const Tokenizer& Engine::tokenizer() const { return *impl_->tokenizer; }
const absl::StatusOr<ChatFormat>& Engine::chat_format() const { return impl_->chat_format; }
const ModelConfig& Engine::model() const { return impl_->config; }
const ModelIdentity& Engine::identity() const { return impl_->identity; }
const EngineInfo& Engine::info() const { return impl_->info; }
int64_t Engine::layers_computed() const { return impl_->transformer->layers_computed(); }

}  // namespace kascade
