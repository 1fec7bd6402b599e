#include "server/inference_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/generate_call.h"
#include "server/limits.h"
#include "server/prompt.h"
#include "server/score_call.h"
#include "server/stream_call.h"
#include "server/translate.h"
#include "server/unary_call.h"

namespace kascade::server {
namespace {

// Where each token begins in `text`; empty when the tokens' bytes do not add up to the text.
std::vector<int64_t> offsets_of(const Tokenizer& tokenizer, const std::vector<Token>& tokens,
                                size_t bos, const std::string& text) {
  std::vector<int64_t> offsets;
  size_t at = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    offsets.push_back(static_cast<int64_t>(at));
    if (i < bos) continue;
    std::string_view bytes = tokenizer.is_special(tokens[i]) ? tokenizer.token_text(tokens[i])
                                                             : tokenizer.token_bytes(tokens[i]);
    if (i == bos && tokenizer.strips_leading_space() && bytes.starts_with(' ')) {
      bytes.remove_prefix(1);
    }
    if (text.compare(at, bytes.size(), bytes) != 0) return {};
    at += bytes.size();
  }
  return at == text.size() ? offsets : std::vector<int64_t>{};
}

void describe_tokens(const Tokenizer& tokenizer, const std::vector<Token>& tokens, size_t bos,
                     const std::string& text, v1::TokenizedText& out) {
  for (const Token token : tokens) {
    out.add_token_texts(std::string(tokenizer.token_text(token)));
  }
  const std::vector<int64_t> offsets = offsets_of(tokenizer, tokens, bos, text);
  out.mutable_byte_offsets()->Add(offsets.begin(), offsets.end());
}

absl::Status tokenize(const Engine& engine, const v1::TokenizeRequest& in,
                      v1::TokenizeResponse& out) {
  if (in.texts().empty() || in.texts_size() > kMaxTexts) {
    return invalid_field("texts",
                         absl::StrCat("must be 1 to ", kMaxTexts, ", got ", in.texts_size()));
  }
  PromptOptions options{.parse_special_tokens = in.parse_special_tokens()};
  if (in.has_add_bos()) options.add_bos = in.add_bos();
  const auto encoder = PromptEncoder::create(engine, options);
  if (!encoder.ok()) return encoder.status();
  for (int i = 0; i < in.texts_size(); ++i) {
    const auto tokens = encoder->text(in.texts(i), absl::StrCat("texts[", i, "]"));
    if (!tokens.ok()) return tokens.status();
    v1::TokenizedText& result = *out.add_results();
    result.mutable_token_ids()->Add(tokens->begin(), tokens->end());
    if (in.details()) {
      describe_tokens(engine.tokenizer(), *tokens, encoder->bos_count(*tokens), in.texts(i),
                      result);
    }
  }
  return absl::OkStatus();
}

absl::Status detokenize(const Engine& engine, const v1::DetokenizeRequest& in,
                        v1::DetokenizeResponse& out) {
  const Tokenizer& tokenizer = engine.tokenizer();
  absl::Status status = check_ids(in.token_ids(), tokenizer.vocab_size(), "token_ids");
  if (!status.ok()) return status;
  const std::vector<Token> tokens(in.token_ids().begin(), in.token_ids().end());
  auto text = tokenizer.decode(tokens, !in.has_skip_special_tokens() || in.skip_special_tokens());
  if (!text.ok()) return text.status();
  out.set_text(*std::move(text));
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  return start_stream(std::make_shared<GenerateCall>(host_), host_, *context, *request);
}

grpc::ServerWriteReactor<v1::ScoreResponse>* InferenceService::Score(
    grpc::CallbackServerContext* context, const v1::ScoreRequest* request) {
  return start_stream(std::make_shared<ScoreCall>(host_), host_, *context, *request);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return run_unary(host_, "Tokenize", context, request->ByteSizeLong(), [this, request, response] {
    return tokenize(host_.engine, *request, *response);
  });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return run_unary(
      host_, "Detokenize", context, request->ByteSizeLong(),
      [this, request, response] { return detokenize(host_.engine, *request, *response); });
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest*,
                                                         v1::GetModelInfoResponse* response) {
  return run_unary(host_, "GetModelInfo", context, 0, [this, response] {
    *response = describe_model(host_);
    return absl::OkStatus();
  });
}

}  // namespace kascade::server
