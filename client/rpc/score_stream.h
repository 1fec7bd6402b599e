// One ScoreStream call: some of the texts, sent in pieces, and what the server makes of them.
#ifndef KASCADE_CLIENT_RPC_SCORE_STREAM_H_
#define KASCADE_CLIENT_RPC_SCORE_STREAM_H_

#include <functional>
#include <span>

#include "absl/status/status.h"
#include "client/commands/texts.h"
#include "client/rpc/call.h"
#include "client/views/score_view.h"
#include "kascade/v1/inference_service.grpc.pb.h"
#include "kascade/v1/score.pb.h"

namespace kascade::client {

using OnScoreProgress = std::function<void(const v1::ScoreProgress&)>;

// Fills `run` but for the names of the texts; errors name those. `options` holds everything but the
// inputs. Where it asks for tokens they are spelled, too, which takes texts that fit a message.
absl::Status stream_score(const Globals& globals, v1::InferenceService::Stub& stub,
                          const v1::ScoreRequest& options, std::span<const NamedText> texts,
                          const OnScoreProgress& on_progress, ScoreRun& run);

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_SCORE_STREAM_H_
