// One input of a Score: the tokens of its sequence, and what of them is to be scored.
#ifndef KASCADE_SERVER_SCORE_INPUT_H_
#define KASCADE_SERVER_SCORE_INPUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "kascade/v1/score.pb.h"
#include "server/prompt.h"
#include "server/score_windows.h"

namespace kascade::server {

struct ScoreSequence {
  std::vector<Token> tokens{};
  int64_t first_scored = 1;  // those before are BOS or context, or have no predecessor
  bool has_context = false;
  bool begins_with_bos = false;

  // What the protocol makes of it.
  v1::ScoreProtocol protocol = v1::SCORE_PROTOCOL_WHOLE;
  std::vector<ScoreWindow> windows{};
  std::vector<Token> window_start{};  // takes the place of each window's first tokens
  int64_t tokens_to_score = 0;
  int64_t words_scored = 0;
  int64_t bytes_scored = 0;
};

// How inputs are cut.
struct ScoreCut {
  v1::ScoreProtocol protocol = v1::SCORE_PROTOCOL_UNSPECIFIED;
  int32_t window_tokens = 0;
  int32_t stride_tokens = 0;  // 0 unless STRIDED
};

// Encodes, cuts and measures. INVALID_ARGUMENT naming `field` or what is below it: neither text nor
// ids, a context of the wrong kind, nothing to score, TOO_LONG for one piece, too short for CHUNK.
absl::StatusOr<ScoreSequence> read_score_input(const v1::ScoreInput& in, const std::string& field,
                                               const ScoreCut& cut, bool parse_special_tokens,
                                               const PromptEncoder& encoder,
                                               const Tokenizer& tokenizer);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_SCORE_INPUT_H_
