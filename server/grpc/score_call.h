// The stream of a Score.
#ifndef KASCADE_SERVER_GRPC_SCORE_CALL_H_
#define KASCADE_SERVER_GRPC_SCORE_CALL_H_

#include "kascade/v1/score.pb.h"
#include "server/grpc/score_results.h"

namespace kascade::server {

class ScoreCall final : public ScoreResults<grpc::ServerWriteReactor<v1::ScoreResponse>> {
 public:
  explicit ScoreCall(ServerContext& context) : ScoreResults(context, "Score") {}

  void start(const v1::ScoreRequest& request, absl::Time deadline);
};

}  // namespace kascade::server

#endif  // KASCADE_SERVER_GRPC_SCORE_CALL_H_
