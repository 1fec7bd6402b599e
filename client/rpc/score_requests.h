// Scores texts: as many requests as the texts need, one after the other or several at a time, whose
// results become one.
#ifndef KASCADE_CLIENT_RPC_SCORE_REQUESTS_H_
#define KASCADE_CLIENT_RPC_SCORE_REQUESTS_H_

#include <cstddef>
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

// What one request holds at most; a text with more bytes has a request of its own.
struct RequestSize {
  size_t texts = 4096;  // which is what the server takes
  size_t bytes = size_t{16} << 20;
};
// Small enough to share among several servers. The size does not depend on how many there are, so
// that neither do the results.
inline constexpr RequestSize kSharedRequest{.texts = 64, .bytes = size_t{32} << 10};

std::vector<TextRange> request_ranges(const std::vector<NamedText>& texts,
                                      const RequestSize& size = {});

// How the requests are made.
struct ScoreRequests {
  RequestSize size{};
  size_t at_once = 1;
  int attempts = 1;  // for a request whose server is lost
};

// Fills `run`, in the order of the texts. `request` holds everything but the inputs. Where it asks
// for tokens they are spelled, too. FAILED_PRECONDITION: another schedule was activated between two
// requests.
absl::Status score_texts(const Globals& globals, v1::InferenceService::Stub& stub,
                         const v1::ScoreRequest& request, const std::vector<NamedText>& texts,
                         ScoreRun& run, const ScoreRequests& how = {});

}  // namespace kascade::client

#endif  // KASCADE_CLIENT_RPC_SCORE_REQUESTS_H_
