#include "client/rpc/score_stream.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

namespace kascade::client {
namespace {

// Every server takes pieces of this size, whatever its largest message is.
constexpr size_t kPieceBytes = size_t{32} << 10;

using ScoreStream = grpc::ClientReaderWriter<v1::ScoreStreamRequest, v1::ScoreResponse>;

// False if the call has ended before; its status tells why.
bool send(const v1::ScoreRequest& options, std::span<const NamedText> texts, ScoreStream& stream) {
  v1::ScoreStreamRequest message;
  *message.mutable_options() = options;
  if (!stream.Write(message)) return false;
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string_view rest = texts[i].text;
    while (!rest.empty()) {
      const std::string_view piece = rest.substr(0, kPieceBytes);
      message.mutable_piece()->set_input_index(static_cast<int32_t>(i));
      message.mutable_piece()->set_text(piece.data(), piece.size());
      if (!stream.Write(message)) return false;
      rest.remove_prefix(piece.size());
    }
  }
  message.mutable_end();
  return stream.Write(message) && stream.WritesDone();
}

// Stores one message of the stream in `run`.
absl::Status take(v1::ScoreResponse& response, const OnScoreProgress& on_progress, ScoreRun& run) {
  if (response.has_started()) run.started = response.started();
  if (response.has_total()) run.total = response.total();
  if (response.has_progress() && on_progress) on_progress(response.progress());
  const auto index = static_cast<size_t>(response.has_tokens()    ? response.tokens().input_index()
                                         : response.has_summary() ? response.summary().input_index()
                                                                  : 0);
  if (index >= run.summaries.size()) {
    return absl::InternalError("the server answers another request");
  }
  if (response.has_tokens()) run.tokens[index].push_back(std::move(*response.mutable_tokens()));
  if (response.has_summary()) run.summaries[index] = std::move(*response.mutable_summary());
  return absl::OkStatus();
}

absl::Status read_scores(const Globals& globals, v1::InferenceService::Stub& stub,
                         const v1::ScoreRequest& options, std::span<const NamedText> texts,
                         const OnScoreProgress& on_progress, ScoreRun& run) {
  Call call(globals);
  const auto stream = stub.ScoreStream(&call.context());
  send(options, texts, *stream);
  v1::ScoreResponse response;
  absl::Status taken;
  while (stream->Read(&response)) {
    taken.Update(take(response, on_progress, run));
    if (!taken.ok()) call.cancel();
  }
  const absl::Status status = call.result(stream->Finish());
  if (!taken.ok()) return taken;
  return status;
}

// Whether every column has a value for each token, and each token has its spelling.
bool fits(const v1::ScoreTokens& part, const v1::TokenizedText& spelled, bool compared) {
  const int count = part.token_ids_size();
  const int twins = compared ? count : 0;
  const int64_t end = part.first_position() + count;
  const bool whole = part.first_position() >= 0 && end <= spelled.token_texts_size() &&
                     end <= spelled.token_ids_size() && part.logprobs_size() == count &&
                     part.top1_size() == count && part.sparse_logprobs_size() == twins &&
                     part.kl_size() == twins;
  return whole && std::equal(part.token_ids().begin(), part.token_ids().end(),
                             spelled.token_ids().begin() + part.first_position());
}

// Fetches the spelling of the scored tokens by tokenizing the same text in the same way, so that
// positions agree.
absl::Status spell(const Globals& globals, v1::InferenceService::Stub& stub,
                   const v1::ScoreRequest& options, std::span<const NamedText> texts,
                   ScoreRun& run) {
  v1::TokenizeRequest tokenize;
  for (const NamedText& text : texts) tokenize.add_texts(text.text);
  if (options.has_add_bos()) tokenize.set_add_bos(options.add_bos());
  tokenize.set_parse_special_tokens(options.parse_special_tokens());
  tokenize.set_details(true);
  const auto response = call(globals, stub, &v1::InferenceService::Stub::Tokenize, tokenize);
  if (!response.ok()) return response.status();
  run.spelled.assign(response->results().begin(), response->results().end());
  bool good = run.spelled.size() == run.summaries.size();
  for (size_t i = 0; good && i < run.spelled.size(); ++i) {
    for (const auto& part : run.tokens[i]) {
      good = good && fits(part, run.spelled[i], run.total.has_comparison());
    }
  }
  if (good) return absl::OkStatus();
  return absl::InternalError("the server's tokens and their spelling do not match");
}

}  // namespace

absl::Status stream_score(const Globals& globals, v1::InferenceService::Stub& stub,
                          const v1::ScoreRequest& options, std::span<const NamedText> texts,
                          const OnScoreProgress& on_progress, ScoreRun& run) {
  run.summaries.resize(texts.size());
  run.tokens.resize(texts.size());
  absl::Status status = read_scores(globals, stub, options, texts, on_progress, run);
  if (status.ok() && options.response().tokens()) {
    status = spell(globals, stub, options, texts, run);
  }
  return with_text_names(status, "inputs", texts);
}

}  // namespace kascade::client
