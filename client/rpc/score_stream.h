// Scores texts: as many requests as the texts need, whose results become one.
#ifndef KASCADE_CLIENT_RPC_SCORE_STREAM_H_
#define KASCADE_CLIENT_RPC_SCORE_STREAM_H_

#include <vector>

#include "absl/status/status.h"
#include "client/commands/texts.h"
#include "client/rpc/call.h"
#include "client/views/score_view.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "kascade/v1/score.pb.h"

namespace kascade::client {

// One request's share of the texts: [begin, end).
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};
// At most 4,096 texts each, which is what the server takes, and at most 16 MiB unless one text is
// longer.
std::vector<TextRange> request_ranges(const std::vector<NamedText>& texts);

// Fills `run`. `request` holds everything but the inputs. Where it asks for tokens they are
// spelled, too. FAILED_PRECONDITION: another schedule was activated between two requests.
absl::Status score_texts(const Globals& globals, v1::InferenceService::Stub& stub,
                         const v1::ScoreRequest& request, const std::vector<NamedText>& texts,
                         ScoreRun& run);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_SCORE_STREAM_H_
