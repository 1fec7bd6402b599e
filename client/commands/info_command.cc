#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "client/commands/commands.h"
#include "client/rpc/failure.h"
#include "client/views/reports.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "tools/terminal/print.h"

namespace kascade::client {
namespace {

namespace health = grpc::health::v1;

Json model_json(const v1::ModelInfo& model) {
  Json out = {{"name", model.name()},
              {"architecture", model.architecture()},
              {"parameters", model.parameters()},
              {"layers", model.layers()},
              {"hidden_size", model.hidden_size()},
              {"intermediate_size", model.intermediate_size()},
              {"heads", model.heads()},
              {"kv_heads", model.kv_heads()},
              {"head_dim", model.head_dim()},
              {"vocab_size", model.vocab_size()},
              {"context_length", model.context_length()},
              {"bos_token_id", model.has_bos_token_id() ? Json(model.bos_token_id()) : Json()},
              {"eos_token_ids", model.eos_token_ids()},
              {"adds_bos", model.adds_bos()},
              {"chat_format", name_of(model.chat_format())}};
  if (model.has_sliding_window()) out["sliding_window"] = model.sliding_window();
  out["weights_digest"] = model.weights_digest();
  out["config_digest"] = model.config_digest();
  out["tokenizer_digest"] = model.tokenizer_digest();
  return out;
}

Json info_json(const v1::GetModelInfoResponse& info) {
  const auto& runtime = info.runtime();
  const auto& limits = info.limits();
  const auto& load = info.load();
  return {{"server_version", info.server_version()},
          {"active_schedule_id", info.active_schedule_id()},
          {"model", model_json(info.model())},
          {"runtime",
           {{"backend", runtime.backend()},
            {"weights_dtype", runtime.weights_dtype()},
            {"cache_dtype", runtime.cache_dtype()},
            {"device", runtime.device()},
            {"instruction_set", runtime.instruction_set()},
            {"device_ids", runtime.device_ids()},
            {"threads", runtime.threads()},
            {"mapped_bytes", runtime.mapped_bytes()},
            {"packed_bytes", runtime.packed_bytes()},
            {"kv_bytes_per_token", runtime.kv_bytes_per_token()},
            {"int4_key_bytes_per_token", runtime.int4_key_bytes_per_token()},
            {"kv_pool_bytes", runtime.kv_pool_bytes()},
            {"load_seconds", runtime.load_seconds()}}},
          {"limits",
           {{"max_message_bytes", limits.max_message_bytes()},
            {"request_memory_bytes", limits.request_memory_bytes()},
            {"max_sequences", limits.max_sequences()},
            {"max_queue", limits.max_queue()},
            {"max_queued_tokens", limits.max_queued_tokens()},
            {"max_wait_seconds", limits.max_wait_seconds()},
            {"max_batch_tokens", limits.max_batch_tokens()},
            {"cache_tokens", limits.cache_tokens()}}},
          {"load",
           {{"running", load.running()},
            {"waiting", load.waiting()},
            {"waiting_tokens", load.waiting_tokens()},
            {"cache_used_ratio", load.cache_used_ratio()}}}};
}

std::string info_text(const v1::GetModelInfoResponse& info) {
  const auto& model = info.model();
  const auto& runtime = info.runtime();
  Facts facts;
  facts.add("Server", "kascade-server " + info.server_version());
  facts.add("Model", fmt::format("{} ({}), {} parameters", model.name(), model.architecture(),
                                 with_commas(model.parameters())));
  facts.add("Shape",
            fmt::format("{}, width {}, {} and {} of {}, vocabulary {}",
                        counted(model.layers(), "layer"), model.hidden_size(),
                        counted(model.heads(), "head"), counted(model.kv_heads(), "KV head"),
                        model.head_dim(), with_commas(model.vocab_size())));
  const std::string window = counted(model.sliding_window(), "token");
  facts.add("Context", counted(model.context_length(), "token") +
                           (model.has_sliding_window() ? ", sliding window of " + window : ""));
  facts.add("Device", fmt::format("{}, {}; weights {}, cache {}", runtime.backend(),
                                  counted(runtime.threads(), "thread"), runtime.weights_dtype(),
                                  runtime.cache_dtype()));
  facts.add("Memory", fmt::format("{} mapped, {} packed, {} KV cache for {} ({} each)",
                                  bytes(static_cast<double>(runtime.mapped_bytes())),
                                  bytes(static_cast<double>(runtime.packed_bytes())),
                                  bytes(static_cast<double>(runtime.kv_pool_bytes())),
                                  counted(info.limits().cache_tokens(), "token"),
                                  bytes(static_cast<double>(runtime.kv_bytes_per_token()))));
  facts.add("Loaded in", fmt::format("{:.2f} s", runtime.load_seconds()));
  facts.add("Load",
            fmt::format("{} running (at most {}), {} waiting (at most {}), cache {} used",
                        info.load().running(), info.limits().max_sequences(), info.load().waiting(),
                        info.limits().max_queue(), percent(info.load().cache_used_ratio(), 1)));
  facts.add("Schedule", info.active_schedule_id().empty() ? "none active: requests run dense"
                                                          : info.active_schedule_id());
  return facts.text();
}

int run_info(const Globals& globals) {
  const auto info = connect_and_call<v1::InferenceService>(
      globals, &v1::InferenceService::Stub::GetModelInfo, v1::GetModelInfoRequest());
  if (!info.ok()) return fail(info.status());
  if (globals.json) {
    print_json(info_json(*info));
  } else {
    fmt::print("{}", info_text(*info));
  }
  return kSuccess;
}

int run_health(const Globals& globals, const std::string& service) {
  health::HealthCheckRequest request;
  request.set_service(service);
  const auto checked =
      connect_and_call<health::Health>(globals, &health::Health::Stub::Check, request);
  if (!checked.ok()) return fail(checked.status());
  const std::string& status = health::HealthCheckResponse::ServingStatus_Name(checked->status());
  if (globals.json) {
    print_json({{"status", status}});
  } else {
    fmt::print("{}\n", status);
  }
  if (checked->status() == health::HealthCheckResponse::SERVING) return kSuccess;
  return fail(absl::UnavailableError(fmt::format(
      "{} at {} is {}", service.empty() ? "the server" : service, globals.server, status)));
}

}  // namespace

void add_info(CLI::App& app, const Globals& globals, Action& chosen) {
  app.add_subcommand("info", "The server's model, device, limits and load")->callback([&] {
    chosen = [&globals] { return run_info(globals); };
  });

  const auto service = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("health", "Exit 0 if the server is serving");
  command->add_option("--service", *service, "Of this gRPC service only [the whole server]");
  command->callback(
      [&, service] { chosen = [&globals, service] { return run_health(globals, *service); }; });
}

}  // namespace kascade::client
