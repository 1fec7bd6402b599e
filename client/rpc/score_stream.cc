#include "client/rpc/score_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "client/rpc/score_totals.h"
#include "tools/terminal/progress.h"

namespace kascade::client {
namespace {

constexpr size_t kMostTexts = 4096;
constexpr size_t kMostBytes = size_t{16} << 20;

// Stores one message of the stream in `run`.
absl::Status take(v1::ScoreResponse& response, ScoreRun& run, ProgressDisplay& display) {
  if (response.has_started()) run.started = response.started();
  if (response.has_total()) run.total = response.total();
  if (response.has_progress()) {
    const auto& progress = response.progress();
    display.show({.stage = "scoring",
                  .done = progress.tokens_done(),
                  .total = progress.tokens_total(),
                  .tokens_per_second = progress.tokens_per_second()});
  }
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
                         const v1::ScoreRequest& request, ScoreRun& run) {
  Call call(globals);
  const auto reader = stub.Score(&call.context(), request);
  ProgressDisplay display;
  v1::ScoreResponse response;
  absl::Status taken;
  while (reader->Read(&response)) {
    taken.Update(take(response, run, display));
    if (!taken.ok()) call.cancel();
  }
  const absl::Status status = call.result(reader->Finish());
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
                   const v1::ScoreRequest& request, ScoreRun& run) {
  v1::TokenizeRequest tokenize;
  for (const auto& input : request.inputs()) tokenize.add_texts(input.text());
  if (request.has_add_bos()) tokenize.set_add_bos(request.add_bos());
  tokenize.set_parse_special_tokens(request.parse_special_tokens());
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

// Moves the results of one request after those of the requests before it.
void append(ScoreRun&& part, bool wants_tokens, ScoreRun& run) {
  const auto index = [&](int32_t own) { return own + static_cast<int32_t>(run.summaries.size()); };
  for (v1::ScoreSummary& summary : part.summaries) {
    summary.set_input_index(index(summary.input_index()));
  }
  if (!wants_tokens) {
    for (auto& tokens : part.tokens) tokens.clear();
  }
  const auto move = [](auto& from, auto& to) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  };
  move(part.summaries, run.summaries);
  move(part.tokens, run.tokens);
  move(part.spelled, run.spelled);
}

// One request, for the texts of `range`.
absl::Status score_range(const Globals& globals, v1::InferenceService::Stub& stub,
                         v1::ScoreRequest request, const std::vector<NamedText>& texts,
                         TextRange range, ScoreRun& run) {
  const bool wants_spelling = request.response().tokens();
  for (size_t i = range.begin; i < range.end; ++i) request.add_inputs()->set_text(texts[i].text);
  run.summaries.resize(range.end - range.begin);
  run.tokens.resize(range.end - range.begin);
  absl::Status status = read_scores(globals, stub, request, run);
  if (status.ok() && wants_spelling) status = spell(globals, stub, request, run);
  const std::vector<NamedText> own(texts.begin() + static_cast<ptrdiff_t>(range.begin),
                                   texts.begin() + static_cast<ptrdiff_t>(range.end));
  return with_text_names(status, "inputs", own);
}

// Scores the ranges one after the other and combines their totals.
absl::Status score_ranges(const Globals& globals, v1::InferenceService::Stub& stub,
                          const v1::ScoreRequest& request, const std::vector<NamedText>& texts,
                          const std::vector<TextRange>& ranges, ScoreRun& run) {
  const auto info =
      call(globals, stub, &v1::InferenceService::Stub::GetModelInfo, v1::GetModelInfoRequest());
  if (!info.ok()) return info.status();
  ScoreTotals totals(info->model().vocab_size());
  const bool wants_tokens = request.response().tokens();
  v1::ScoreRequest each = request;
  // The percentiles of a comparison follow from all its tokens.
  if (request.attention().mode() == v1::ATTENTION_MODE_COMPARE) {
    each.mutable_response()->set_tokens(true);
  }
  for (const TextRange& range : ranges) {
    ScoreRun part;
    absl::Status status = score_range(globals, stub, each, texts, range, part);
    if (!status.ok()) return status;
    if (range.begin == 0) run.started = part.started;
    if (part.started.schedule_id() != run.started.schedule_id()) {
      return absl::FailedPreconditionError(
          "another schedule was activated between the requests that these texts need; score again");
    }
    totals.add(part.total, part.tokens);
    append(std::move(part), wants_tokens, run);
  }
  run.total = totals.total();
  return absl::OkStatus();
}

}  // namespace

std::vector<TextRange> request_ranges(const std::vector<NamedText>& texts) {
  std::vector<TextRange> ranges;
  size_t bytes = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const size_t size = texts[i].text.size();
    const bool starts =
        ranges.empty() || i - ranges.back().begin == kMostTexts || bytes + size > kMostBytes;
    if (starts) {
      ranges.push_back({.begin = i});
      bytes = 0;
    }
    bytes += size;
    ranges.back().end = i + 1;
  }
  return ranges;
}

absl::Status score_texts(const Globals& globals, v1::InferenceService::Stub& stub,
                         const v1::ScoreRequest& request, const std::vector<NamedText>& texts,
                         ScoreRun& run) {
  for (const NamedText& text : texts) {
    run.files.push_back(text.file);
    if (text.line > 0) run.lines.push_back(text.line);
  }
  const std::vector<TextRange> ranges = request_ranges(texts);
  if (ranges.size() > 1) return score_ranges(globals, stub, request, texts, ranges, run);
  return score_range(globals, stub, request, texts, ranges.front(), run);
}

}  // namespace kascade::client
