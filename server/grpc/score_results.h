// What Score and ScoreStream have in common: the results of a scoring become the responses of the
// call.
#ifndef KASCADE_SERVER_GRPC_SCORE_RESULTS_H_
#define KASCADE_SERVER_GRPC_SCORE_RESULTS_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "kascade/v1/score.pb.h"
#include "server/core/scoring.h"
#include "server/grpc/stream_call.h"
#include "server/grpc/translate_score.h"

namespace kascade::server {

// Progress takes the place of progress, and tokens follow those that they adjoin.
Merged merge_score_responses(v1::ScoreResponse& last, v1::ScoreResponse& next);

template <typename Reactor>
class ScoreResults : public StreamCall<v1::ScoreResponse, Reactor>, public core::ScoringSink {
 public:
  ScoreResults(ServerContext& context, std::string rpc)
      : StreamCall<v1::ScoreResponse, Reactor>(context, std::move(rpc)),
        scoring_(context, *this, this->record().arrival()) {}

 protected:
  // Of the request, before its scoring starts.
  void set_options(const v1::ScoreRequest& request) {
    columns_ = {.ranks = request.response().ranks(), .top = request.response().top_logprobs() > 0};
    fields_ = score_fields(request);
  }
  void start_scoring(core::ScoringRequest request) {
    request.client = this->record().caller();
    scoring_.start(request, this->shared_from_this());
  }
  // `status` with its field as clients know it.
  absl::Status on_wire(const absl::Status& status) const {
    return with_wire_field(status, fields_);
  }
  void cancelled() override { scoring_.cancel(); }

 private:
  void written() override { scoring_.resume(); }

  void started(const core::ScoringStarted& started) override {
    v1::ScoreResponse response;
    to_proto(started, *response.mutable_started());
    this->send(std::move(response));
  }
  void progress(const core::ScoringProgress& progress) override {
    v1::ScoreResponse response;
    to_proto(progress, *response.mutable_progress());
    this->send(std::move(response), merge_score_responses);
  }
  void columns(const core::ScoredColumns& columns) override {
    for (v1::ScoreTokens& tokens : to_proto(columns, columns_)) {
      v1::ScoreResponse response;
      *response.mutable_tokens() = std::move(tokens);
      this->send(std::move(response), merge_score_responses);
    }
  }
  void summary(const core::ScoringSummary& summary) override {
    if (summary.input) this->record().tokens().scored += summary.tokens_scored;
    v1::ScoreResponse response;
    to_proto(summary, summary.input ? *response.mutable_summary() : *response.mutable_total());
    this->send(std::move(response));
  }
  void ended(const absl::Status& status) override { this->close(on_wire(status)); }
  size_t unsent_bytes() const override { return this->bytes_to_write(); }

  ScoreColumns columns_{};
  std::vector<FieldName> fields_{};
  core::Scoring scoring_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_SCORE_RESULTS_H_
