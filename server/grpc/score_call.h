// The stream of a Score.
#ifndef KASCADE_SERVER_GRPC_SCORE_CALL_H_
#define KASCADE_SERVER_GRPC_SCORE_CALL_H_

#include <cstddef>
#include <vector>

#include "kascade/v1/score.pb.h"
#include "server/core/scoring.h"
#include "server/grpc/stream_call.h"
#include "server/grpc/translate_score.h"

namespace kascade::server {

class ScoreCall final : public StreamCall<v1::ScoreResponse>, public core::ScoringSink {
 public:
  ScoreCall(ServerContext& context, const v1::ScoreRequest& request)
      : StreamCall(context, "Score"),
        columns_{.ranks = request.response().ranks(), .top = request.response().top_logprobs() > 0},
        fields_(score_fields(request)),
        scoring_(context, *this, record().arrival()) {}

  void start(const v1::ScoreRequest& request, absl::Time deadline);

 private:
  void cancelled() override { scoring_.cancel(); }
  void written() override { scoring_.resume(); }

  void started(const core::ScoringStarted& started) override;
  void progress(const core::ScoringProgress& progress) override;
  void columns(const core::ScoredColumns& columns) override;
  void summary(const core::ScoringSummary& summary) override;
  void ended(const absl::Status& status) override;
  size_t unsent_bytes() const override { return bytes_to_write(); }

  const ScoreColumns columns_;
  const std::vector<FieldName> fields_;
  core::Scoring scoring_;
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_SCORE_CALL_H_
