#include "server/grpc/inference_service.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "server/core/tokens.h"
#include "server/grpc/errors.h"
#include "server/grpc/generate_call.h"
#include "server/grpc/score_call.h"
#include "server/grpc/score_stream_call.h"
#include "server/grpc/trace_call.h"
#include "server/grpc/translate_generate.h"
#include "server/grpc/translate_model.h"
#include "server/grpc/unary_call.h"

namespace kascade::server {
namespace {

absl::Status tokenize(const ServerContext& context, const v1::TokenizeRequest& in,
                      v1::TokenizeResponse& out, core::RequestGuard& guard) {
  const std::vector<std::string_view> texts(in.texts().begin(), in.texts().end());
  const auto results = core::tokenize(context.engine,
                                      {.texts = texts,
                                       .options = read_prompt_options(in),
                                       .details = in.details(),
                                       .max_reply_bytes = context.limits.max_message_bytes},
                                      guard);
  if (!results.ok()) return results.status();
  for (const core::TokenizedText& result : *results) {
    v1::TokenizedText& message = *out.add_results();
    message.mutable_token_ids()->Add(result.tokens.begin(), result.tokens.end());
    message.mutable_token_texts()->Reserve(static_cast<int>(result.spellings.size()));
    for (const std::string_view spelling : result.spellings) {
      message.add_token_texts(spelling.data(), spelling.size());
    }
    message.mutable_byte_offsets()->Add(result.offsets.begin(), result.offsets.end());
  }
  return absl::OkStatus();
}

absl::Status detokenize(const ServerContext& context, const v1::DetokenizeRequest& in,
                        v1::DetokenizeResponse& out, core::RequestGuard& guard) {
  constexpr FieldName kNames[] = {{"tokens", "token_ids"}};
  const bool skip_special = !in.has_skip_special_tokens() || in.skip_special_tokens();
  auto text = core::detokenize(context.engine, span_of(in.token_ids()), skip_special,
                               context.limits.max_message_bytes, guard);
  if (!text.ok()) return with_wire_field(text.status(), kNames);
  out.set_text(*std::move(text));
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* call, const v1::GenerateRequest* request) {
  return start_stream(std::make_shared<GenerateCall>(context_, *request), context_, *call,
                      *request);
}

grpc::ServerWriteReactor<v1::ScoreResponse>* InferenceService::Score(
    grpc::CallbackServerContext* call, const v1::ScoreRequest* request) {
  return start_stream(std::make_shared<ScoreCall>(context_), context_, *call, *request);
}

grpc::ServerBidiReactor<v1::ScoreStreamRequest, v1::ScoreResponse>* InferenceService::ScoreStream(
    grpc::CallbackServerContext* call) {
  return ScoreStreamCall::begin(context_, *call);
}

grpc::ServerWriteReactor<v1::TraceResponse>* InferenceService::Trace(
    grpc::CallbackServerContext* call, const v1::TraceRequest* request) {
  return start_stream(std::make_shared<TraceCall>(context_, *request), context_, *call, *request);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* call,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return run_unary(context_, "Tokenize", call, *request,
                   [this, request, response](core::RequestGuard& guard) {
                     return tokenize(context_, *request, *response, guard);
                   });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* call,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return run_unary(context_, "Detokenize", call, *request,
                   [this, request, response](core::RequestGuard& guard) {
                     return detokenize(context_, *request, *response, guard);
                   });
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* call,
                                                         const v1::GetModelInfoRequest* request,
                                                         v1::GetModelInfoResponse* response) {
  return run_unary(context_, "GetModelInfo", call, *request, [this, response](auto&) {
    *response = describe_model(context_);
    return absl::OkStatus();
  });
}

}  // namespace kascade::server
