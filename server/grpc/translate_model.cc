#include "server/grpc/translate_model.h"

#include "server/core/limits.h"
#include "server/grpc/translate_generate.h"

namespace kascade::server {
namespace {

void describe(const Engine& engine, v1::ModelInfo& out) {
  const ModelConfig& model = engine.model();
  out.set_name(model.name);
  out.set_architecture(model.model_type);
  out.set_parameters(engine.info().parameters);
  out.set_layers(model.layers);
  out.set_hidden_size(model.hidden);
  out.set_intermediate_size(model.intermediate);
  out.set_heads(model.heads);
  out.set_kv_heads(model.kv_heads);
  out.set_head_dim(model.head_dim);
  out.set_vocab_size(model.vocab);
  out.set_context_length(model.context);
  if (model.sliding_window) out.set_sliding_window(*model.sliding_window);
  if (model.bos_token) out.set_bos_token_id(*model.bos_token);
  for (const int32_t token : model.eos_tokens) out.add_eos_token_ids(token);
  out.set_adds_bos(!engine.tokenizer().prefix_tokens().empty());
  out.set_weights_digest(engine.identity().weights_digest);
  out.set_config_digest(engine.identity().config_digest);
  out.set_tokenizer_digest(engine.identity().tokenizer_digest);
  if (engine.chat_format().ok()) out.set_chat_format(to_proto(*engine.chat_format()));
}

void describe(const EngineInfo& info, v1::RuntimeInfo& out) {
  out.set_backend(info.backend);
  out.set_device(info.device);
  out.set_instruction_set(info.instruction_set);
  out.mutable_device_ids()->Assign(info.device_ids.begin(), info.device_ids.end());
  out.set_weights_dtype(std::string(name_of(info.weights)));
  out.set_cache_dtype(std::string(name_of(info.cache)));
  out.set_threads(info.threads);
  out.set_mapped_bytes(info.mapped_bytes);
  out.set_packed_bytes(info.packed_bytes);
  out.set_kv_bytes_per_token(info.kv_bytes_per_token);
  out.set_int4_key_bytes_per_token(info.int4_key_bytes_per_token);
  out.set_kv_pool_bytes(info.kv_pool_bytes);
  out.set_load_seconds(absl::ToDoubleSeconds(info.load_time));
}

void describe(const EngineStats& stats, v1::Load& out) {
  out.set_running(stats.running);
  out.set_waiting(stats.waiting);
  out.set_waiting_tokens(stats.waiting_tokens);
  if (stats.total_blocks > 0) {
    out.set_cache_used_ratio(1.0 - static_cast<double>(stats.free_blocks) / stats.total_blocks);
  }
}

}  // namespace

v1::GetModelInfoResponse describe_model(const core::ServerContext& context) {
  v1::GetModelInfoResponse out;
  const EngineStats stats = context.engine.stats();
  const QueueLimits queue = context.engine.queue_limits();
  describe(context.engine, *out.mutable_model());
  describe(context.engine.info(), *out.mutable_runtime());
  describe(stats, *out.mutable_load());
  out.mutable_limits()->set_max_message_bytes(context.limits.max_message_bytes);
  out.mutable_limits()->set_request_memory_bytes(context.limits.request_memory_bytes);
  out.mutable_limits()->set_max_piece_bytes(
      core::max_piece_bytes(context.limits.max_message_bytes));
  out.mutable_limits()->set_max_text_bytes(int64_t{kMaxTextBytes});
  out.mutable_limits()->set_max_sequences(context.limits.max_sequences);
  out.mutable_limits()->set_max_queue(queue.max_queue);
  out.mutable_limits()->set_max_queued_tokens(queue.max_queued_tokens);
  out.mutable_limits()->set_max_wait_seconds(queue.max_wait_seconds);
  out.mutable_limits()->set_max_batch_tokens(context.limits.max_batch_tokens);
  out.mutable_limits()->set_cache_tokens(int64_t{stats.total_blocks} * stats.block_size);
  if (const auto active = context.engine.active_schedule()) {
    out.set_active_schedule_id(active->schedule_id);
  }
  out.set_server_version(KASCADE_VERSION);
  return out;
}

}  // namespace kascade::server
