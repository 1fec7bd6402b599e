// Score on the wire ↔ the core.
#ifndef KASCADE_SERVER_GRPC_TRANSLATE_SCORE_H_
#define KASCADE_SERVER_GRPC_TRANSLATE_SCORE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kascade/v1/score.pb.h"
#include "server/core/scoring.h"
#include "server/grpc/errors.h"

namespace kascade::server {

// Points into `in`. `layers` of the model. INVALID_ARGUMENT for what the core's types cannot
// express.
absl::StatusOr<core::ScoringRequest> read_score(const v1::ScoreRequest& in, int32_t layers,
                                                absl::Time deadline);
// How a client knows the fields that the core finds at fault.
std::vector<FieldName> score_fields(const v1::ScoreRequest& in);

void to_proto(const core::ScoringStarted& started, v1::ScoreStarted& out);
void to_proto(const core::ScoringProgress& progress, v1::ScoreProgress& out);
void to_proto(const core::ScoringSummary& summary, v1::ScoreSummary& out);

// What the columns of scored tokens hold.
struct ScoreColumns {
  bool ranks = false;
  bool top = false;
};
// As many messages as the tokens need.
std::vector<v1::ScoreTokens> to_proto(const core::ScoredColumns& scored,
                                      const ScoreColumns& columns);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_TRANSLATE_SCORE_H_
